"""Takes secrets out of texts: those that are known, in every spelling they are likely to have, and what looks like one.

>>> blank = Blanker(["hunter2-hunter2"])
>>> blank.text("password hunter2-hunter2 refused; see mqtt://ann:wonderland@host/")
'password *** refused; see mqtt://***@host/'
>>> blank.text("token=xyz, {'apiKey': 'q'}, sent Bearer abc.def, Cookie: id=5; user=ann")
"token=***, {'apiKey': '***'}, sent ***, Cookie: ***"
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit

BLANK = "***"
LEAST_ANYWHERE = 4
"""Characters from which on a secret is looked for within words, too; a shorter one would take ordinary words apart."""

_NAMES = (
    r"[\w.-]*(?:passw(?:or)?d|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credential|authorization"
    r"|cookie|sessionid)[\w.-]*"
)
_SECRET_NAME = re.compile(rf"(?:{_NAMES}|key|auth|pass|sasl_plain_password)", re.IGNORECASE)
_USER_INFO = re.compile(r"(?<=://)[^\s/@'\"<>]*(?::[^\s@'\"<>]*)?@")
_BEARER = re.compile(r"\b(?:Bearer|Basic|Token)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_HEADER = re.compile(r"\b((?:Proxy-)?Authorization|(?:Set-)?Cookie)\s*:\s*[^\r\n\"']+", re.IGNORECASE)
"""Nearly all that such a header says is secret, whatever its parts are called."""
_ASSIGNED = re.compile(
    rf"(?P<name>[\"']?\b{_NAMES}[\"']?\s*(?:=>|[:=])\s*)(?P<value>\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|[^\s,;&)}}\]]+)",
    re.IGNORECASE,
)
_KEY_BLOCK = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)


def is_secret_name(name: str) -> bool:
    """Whether a setting or property of that name is likely to hold a secret.

    >>> [is_secret_name(name) for name in ("apiToken", "X-Api-Key", "broker_key", "password2", "topic")]
    [True, True, False, True, False]
    """
    return _SECRET_NAME.fullmatch(name) is not None


class Blanker:
    """`secrets` are the values that are known; empty ones are passed over."""

    def __init__(self, secrets: Iterable[str]) -> None:
        known = {text for secret in secrets for text in (secret, *_within(secret)) if text}
        forms = sorted({form for secret in known for form in _forms(secret)}, key=len, reverse=True)
        self._known = re.compile("|".join(forms)) if forms else None

    def text(self, text: str) -> str:
        """The text without what is secret."""
        if self._known is not None:
            text = self._known.sub(BLANK, text)
        text = _KEY_BLOCK.sub(BLANK, text)
        text = _USER_INFO.sub(f"{BLANK}@", text)
        text = _HEADER.sub(rf"\1: {BLANK}", text)
        text = _BEARER.sub(BLANK, text)
        return _ASSIGNED.sub(_without_value, text)

    def tree(self, value: Any) -> Any:
        """A JSON document without what is secret, in its texts or by its names."""
        if isinstance(value, Mapping):
            return {self.text(str(name)): self._item(str(name), item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.tree(item) for item in value]
        return self.text(value) if isinstance(value, str) else value

    def _item(self, name: str, value: Any) -> Any:
        if isinstance(value, str) and value and is_secret_name(name) and not is_reference(value):
            return BLANK
        return self.tree(value)


def is_reference(text: str) -> bool:
    """Whether a property's text names a variable, which may be secret, and is no secret itself.

    >>> is_reference("${VOLTFLOW_AGENT_BROKER_PASSWORD}"), is_reference("hunter2")
    (True, False)
    """
    return re.fullmatch(r"\$\{[A-Za-z_$.][\w$.]*\}", text) is not None


def _without_value(match: re.Match[str]) -> str:
    value = match["value"]
    if value.startswith(BLANK):
        return match[0]
    mark = value[0] if value[0] in "\"'" else ""
    return f"{match['name']}{mark}{BLANK}{mark}"


def _within(secret: str) -> Iterator[str]:
    """The password within a connection string or an address."""
    if "://" in secret:
        try:
            password = urlsplit(secret).password
        except ValueError:
            password = None
        if password:
            yield password
    yield from (match[1] for match in re.finditer(r"password\s*=\s*'?([^\s']+)", secret))


def _forms(secret: str) -> Iterator[str]:
    """Patterns of a secret as it is, and as addresses, JSON, hex and base64 have it."""
    if len(secret) < LEAST_ANYWHERE:
        yield rf"(?<!\w){re.escape(secret)}(?!\w)"
        return
    data = secret.encode()
    texts = {secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1], data.hex()}
    texts |= {json.dumps(secret, ensure_ascii=False)[1:-1], *_base64_cores(data)}
    yield from map(re.escape, texts)


def _base64_cores(data: bytes) -> Iterator[str]:
    """What base64 makes of bytes wherever they begin: the characters that no neighbour has a part in."""
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + data)
        first, end = -(-before * 8 // 6), (before + len(data)) * 8 // 6
        core = encoded[first:end].decode()
        if len(core) >= LEAST_ANYWHERE:
            yield core
            yield core.replace("+", "-").replace("/", "_")
