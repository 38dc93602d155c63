"""How the editor's requests are answered: who may ask, what a body is, and that every failure is JSON.

    api = Api(auth)
    api.get("/flows", flows, needs="flows.read")     # def flows(request: Request) -> object
    api.app                                          # a Bottle application

A handler returns what JSON can say, or a Reply. Browsers are only listened to from the gateway's own pages (Origin).
"""

from __future__ import annotations

import html
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import bottle

from edge.editor.auth import Auth
from voltflow import finite_json
from voltflow.admin.users import User

log = logging.getLogger(__name__)

MAX_BODY_BYTES: Final = 5_000_000
"""As Node-RED's own limit."""
CHANGES_FLOWS: Final = "flows.write"
"""The permission whose refusals are logged."""
_USER: Final = "voltflow.user"
_LONGEST: Final = 500
"""Characters of a refusal in the log."""


class EditorError(Exception):
    """An answer that is not 2xx: `code` is for programs, the text for people. `lines` are the same text in parts, for the
    editor's page, which shows an answer as it is."""

    def __init__(self, status: int, code: str, message: str, lines: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.status, self.code, self.lines = status, code, lines


@dataclass(frozen=True)
class Reply:
    """An answer that is not JSON made of a value."""

    body: bytes = b""
    media: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


NO_CONTENT: Final = Reply(status=204)


class Request:
    """What was asked. `user` is None where nobody has to log in."""

    def __init__(self, user: User | None) -> None:
        self.user = user
        self.environ: Mapping[str, Any] = bottle.request.environ

    def header(self, name: str) -> str:
        value: str = bottle.request.get_header(name, "")
        return value

    @property
    def address(self) -> str:
        """Where it comes from."""
        return str(self.environ.get("REMOTE_ADDR", ""))

    @property
    def who(self) -> str:
        """Asks, for the log."""
        return f"{self.user.username} from {self.address}" if self.user else self.address

    @cached_property
    def query(self) -> dict[str, str]:
        """The first value of each."""
        found = parse_qs(str(self.environ.get("QUERY_STRING", "")), keep_blank_values=True)
        return {name: values[0] for name, values in found.items()}

    @cached_property
    def body(self) -> bytes:
        """Bottle's own `json` and `forms` end at 100 KB and mangle what is not ASCII."""
        stream = self.environ["wsgi.input"]
        data: bytes = stream.read(MAX_BODY_BYTES + 1)
        if len(data) > MAX_BODY_BYTES:
            raise EditorError(413, "too_large", f"at most {MAX_BODY_BYTES // 1_000_000} MB are taken")
        return data

    def json(self) -> Any:
        try:
            return finite_json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise EditorError(400, "invalid_json", f"the body is not JSON: {error}") from None

    def fields(self) -> dict[str, Any]:
        """A body of named values, as JSON or from a form; `name[]` of a form is a list."""
        if "json" in self.header("Content-Type"):
            found = self.json()
            if not isinstance(found, dict):
                raise EditorError(400, "invalid_request", "the body is to be a JSON object")
            return found
        text = self.body.decode("utf-8", "replace")
        pairs = parse_qs(text, keep_blank_values=True)
        return {
            name.removesuffix("[]"): values if name.endswith("[]") else values[0]
            for name, values in pairs.items()
        }


Handler = Callable[..., Any]


class Api:
    """Routes with what they need, and the application made of them."""

    def __init__(self, auth: Auth) -> None:
        self.auth = auth
        self.app = bottle.Bottle()
        self.app.default_error_handler = _on_error

    def get(self, rule: str, handler: Handler, *, needs: str | None = None) -> None:
        self.route("GET", rule, handler, needs=needs)

    def route(self, method: str, rule: str, handler: Handler, *, needs: str | None = None) -> None:
        """`handler(request, **path)` answers; `needs` is the permission, None: anybody may ask."""

        def handle(**path: str) -> bytes:
            bottle.request.environ[_USER] = None
            try:
                if method != "GET":
                    check_origin(bottle.request.get_header("Origin"), bottle.request.get_header("Host", ""))
                request = Request(self._user(needs))
                return _send(handler(request, **path))
            except EditorError as error:
                if needs == CHANGES_FLOWS:
                    _log_refusal(error)
                return _send_error(error)
            except Exception:
                log.exception("editor: %s %s failed", method, bottle.request.path)
                text = "the gateway failed on this request; see its log"
                return _send_error(EditorError(500, "unexpected_error", text))

        self.app.route(rule, method, handle)

    def _user(self, needs: str | None) -> User | None:
        """Who asks; raises EditorError for who may not."""
        if needs is None:
            return None
        if self.auth.closed:
            raise EditorError(403, "closed", self.auth.closed)
        scheme, _, token = bottle.request.get_header("Authorization", "").partition(" ")
        user = self.auth.user_of(token.strip()) if scheme.lower() == "bearer" else None
        bottle.request.environ[_USER] = user
        if not self.auth.allows(user, needs):
            raise EditorError(401, "unauthorized", f"log in as a user with the permission {needs}")
        return user


def _log_refusal(error: EditorError) -> None:
    request = bottle.request
    kind = request.get_header("Node-RED-Deployment-Type", "")
    log.warning(
        "%s %.80s%s of %s refused (%d): %s",
        request.method, printable(request.path), f" ({printable(kind):.20})" if kind else "",
        Request(request.environ[_USER]).who, error.status, printable("; ".join(error.lines or [str(error)])),
    )  # fmt: skip


def printable(text: str) -> str:
    """As it may stand in a line of the log: texts of a flow can have lines, and what a terminal obeys.

    >>> printable("pack\\x1b[2J 7\\n")
    'pack [2J 7 '
    """
    return "".join(character if character.isprintable() else " " for character in text[:_LONGEST])


def check_origin(origin: str | None, host: str) -> None:
    """Raise EditorError for what a web page of another site sends; programs that are no browsers send no Origin.

    >>> check_origin("http://localhost:5002", "localhost:5002")
    """
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        raise EditorError(403, "wrong_origin", f"pages of {html.escape(origin)} may not use this gateway")


def to_json(value: Any) -> bytes:
    """JSON in which no text is html, for pages that show an answer as it is; a lone surrogate becomes its escape."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").encode("utf-8", "backslashreplace")


def _send(answer: Any) -> bytes:
    reply = answer if isinstance(answer, Reply) else Reply(to_json(answer), "application/json")
    bottle.response.status = reply.status
    bottle.response.content_type = reply.media
    bottle.response.set_header("Cache-Control", "no-store")
    for name, value in reply.headers.items():
        bottle.response.set_header(name, value)
    return reply.body


def _send_error(error: EditorError) -> bytes:
    if error.status == 401:  # the editor asks for a login then, whatever it says
        return _send(Reply(b"Unauthorized", status=401))
    if error.lines and bottle.request.get_header("X-Requested-With") == "XMLHttpRequest":
        items = "".join(f"<li>{html.escape(line)}</li>" for line in error.lines)
        return _send(Reply(f"<ul>{items}</ul>".encode(), "text/html; charset=utf-8", error.status))
    body = to_json({"code": error.code, "message": str(error)})
    return _send(Reply(body, "application/json", error.status))


def _on_error(error: bottle.HTTPError) -> bytes:
    """What Bottle itself answers: unknown paths, wrong methods."""
    error.content_type = "application/json"
    error.set_header("Cache-Control", "no-store")
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "unexpected_error")
    return to_json({"code": code, "message": f"{bottle.request.method} {bottle.request.path}: {code}"})
