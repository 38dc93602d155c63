"""Why a node failed on a message."""

from __future__ import annotations


class Why(str):
    """Of an error: as logs and dead letters say it, with the error's class before its text; `catch` nodes get the two apart.

    >>> why = Why.of(ValueError("no number"))
    >>> str(why), why.name, why.text
    ('ValueError: no number', 'ValueError', 'no number')
    """

    __slots__ = ("name", "text")
    name: str
    text: str

    @classmethod
    def of(cls, error: BaseException) -> Why:
        name, text = type(error).__name__, str(error)
        why = cls(f"{name}: {text}")
        why.name, why.text = name, text or name
        return why


def for_catch(error: str) -> dict[str, str]:
    """`message` and, of an error, `name`, as in `msg.error`."""
    return {"message": error.text, "name": error.name} if isinstance(error, Why) else {"message": str(error)}
