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
from urllib.parse import quote, quote_plus, unquote, urlsplit

BLANK = "***"
LEAST_ANYWHERE = 4
"""Characters from which on a secret is looked for within words, too; a shorter one would take ordinary words apart."""

_WORDS = (
    r"(?:passw(?:or)?d|passphrase|passcode|pwd|psk|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credential"
    r"|authorization|cookie|sessionid|(?<![a-z])pin(?![a-z])|(?-i:(?<=[a-z])P(?:in|IN)(?![a-z])))"
)
_SECRET_WORD = re.compile(_WORDS, re.IGNORECASE)
_WHOLE_NAMES = frozenset({"key", "auth", "pass"})
"""Names that say it only where nothing else stands in them."""
# Every repetition below is bounded or cannot begin again within itself: a log may have a line of any length and letters.
_USER_INFO = re.compile(r"(?<=://)[^\s/@:'\"<>]{0,256}(?::[^\s@'\"<>]{0,2048})?@")
_QUERY = re.compile(
    r"(://[^\s?'\"<>]{1,2048}\?)[^\s'\"<>]+|(?<=[?&])((?:code|sig|signature|key|auth|pass)=)[^\s&'\"<>]+",
    re.IGNORECASE,
)
_LONG_PART = re.compile(
    r"(?<=/)(?=[^\s/?#'\"<>]{0,128}?\d)(?=[^\s/?#'\"<>]{0,128}?[A-Za-z])[\w:.~%-]{20,}(?=[\s/?#'\"<>]|\Z)"
)
"""A part of an address's path that nobody would type: services take tokens there."""
_ADDRESS = re.compile(r"https?://[^\s'\"<>]+")
_BEARER = re.compile(r"\b(?:Bearer|Basic|Token)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_HEADER = re.compile(
    r"\b((?:Proxy-)?Authorization|(?:Set-)?Cookie)\s*:\s*(?:[^\r\n\"']|(?<==)\"[^\r\n\"]*\"|(?<==)'[^\r\n']*')+",
    re.IGNORECASE,
)
"""Nearly all that such a header says is secret, whatever its parts are called."""
_VALUE = r"\*{3}|(?P<marks>\\{1,7})\"[^\r\n]{0,4096}?(?<!\\)(?P=marks)\"|\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|\[[^\]\r\n]{0,4096}\]|[^\s,;&)}\]]+"
"""What is blanked already (behind it the next name may stand), JSON within a text of JSON, a text, a list, a word."""
_ASSIGNED = re.compile(
    rf"(?P<name>{_WORDS}[\w.-]{{0,128}}\\{{0,3}}[\"']?\s{{0,64}}(?:=>|[:=])\s{{0,64}})(?P<value>{_VALUE})",
    re.IGNORECASE,
)
_SAID = re.compile(
    r"(?<![\w/-])(?P<name>passwd\s{1,64}|(?:password|passphrase|passcode|token|secret)\s{1,64}(?=[^\s\d]{0,64}\d)(?=[^\sA-Za-z]{0,64}[A-Za-z]))"
    r"(?P<value>\"[^\"\r\n]{1,256}\"|'[^'\r\n]{1,256}'|[^\s\"'/,;:-][^\s\"',;]{0,255})",
    re.IGNORECASE,
)
"""A word that stands behind one: behind `password` only where it has a letter and a digit, as no word of a sentence."""
_OPTION = re.compile(
    rf"(?<![\w-])(?P<name>--?(?P<of>[A-Za-z][\w-]{{0,128}})\s{{1,64}})(?!-)(?P<value>{_VALUE})"
)
_KEY_BLOCK = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)


def is_secret_name(name: str) -> bool:
    """Whether a setting or property of that name is likely to hold a secret.

    >>> [is_secret_name(name) for name in ("apiToken", "X-Api-Key", "broker_key", "password2", "topic")]
    [True, True, False, True, False]
    >>> [
    ...     is_secret_name(name)
    ...     for name in ("wifi_psk", "passcode", "simPin", "sim_pin", "spinning", "Shipping")
    ... ]
    [True, True, True, True, False, False]
    """
    return _SECRET_WORD.search(name) is not None or name.lower() in _WHOLE_NAMES


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
        text = _QUERY.sub(rf"\1\2{BLANK}", text)
        text = _ADDRESS.sub(lambda match: _LONG_PART.sub(BLANK, match[0]), text)
        text = _HEADER.sub(rf"\1: {BLANK}", text)
        text = _BEARER.sub(BLANK, text)
        text = _OPTION.sub(
            lambda match: _without_value(match) if is_secret_name(match["of"]) else match[0], text
        )
        text = _ASSIGNED.sub(_without_value, text)
        return _SAID.sub(_without_value, text)

    def tree(self, value: Any) -> Any:
        """A JSON document without what is secret, in its texts or by its names."""
        if isinstance(value, Mapping):
            return {self.text(str(name)): self._item(str(name), item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.tree(item) for item in value]
        return self.text(value) if isinstance(value, str) else value

    def _item(self, name: str, value: Any) -> Any:
        return self._blanked(value) if is_secret_name(name) else self.tree(value)

    def _blanked(self, value: Any) -> Any:
        """What a secret name stands for. What is in an object is judged by its own names; true, false and nothing tell nothing."""
        if isinstance(value, list | tuple):
            return [self._blanked(item) for item in value]
        if isinstance(value, Mapping):
            return self.tree(value)
        if value in ("", None) or isinstance(value, bool) or (isinstance(value, str) and is_reference(value)):
            return value
        return BLANK


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
    found = re.match(r"\\{0,7}[\"']", value)
    mark = found[0] if found else ""
    return f"{match['name']}{mark}{BLANK}{mark}"


def _within(secret: str) -> Iterator[str]:
    """The password within a connection string or an address."""
    if "://" in secret:
        try:
            password = urlsplit(secret).password
        except ValueError:
            password = None
        if password:
            yield from {password, unquote(password)}
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
