"""A client of Node-RED's admin API, of a gateway or of a Node-RED: log in, read the flow, deploy one."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any, Final
from urllib.parse import urlsplit

from voltflow.flow.expand import RawNode

DEFAULT_URL: Final = "http://127.0.0.1:5002/editor"
_TIMEOUT_S: Final = 60.0
"""A deploy waits for what is under way."""


class AdminError(ValueError):
    """The far side refused, or could not be asked; `status` is the answer's, 0 where there was none."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class AdminClient:
    """Use: `client.login(user, password)` where it asks for that, then `client.flows()`.

    The address of a gateway may be given without `/editor`; `http://host:1880/` is the root of a Node-RED.
    """

    def __init__(self, url: str = DEFAULT_URL) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise AdminError(f"--url is {url!r}, it must be an address such as {DEFAULT_URL}")
        self._root = f"{url}/editor" if not parts.path else url.rstrip("/")
        self._token = ""

    def login(self, username: str, password: str) -> None:
        body = {
            "client_id": "node-red-admin", "grant_type": "password", "scope": "", "username": username,
            "password": password,
        }  # fmt: skip
        self._token = str(self._ask("POST", "/auth/token", body)["access_token"])

    def logout(self) -> None:
        """End the login, if there is one."""
        if self._token:
            self._ask("POST", "/auth/revoke", {"token": self._token})
            self._token = ""

    def flows(self) -> tuple[list[RawNode], str]:
        """The flow and its revision."""
        answer = self._ask("GET", "/flows")
        return answer["flows"], answer["rev"]

    def deploy(self, nodes: list[RawNode], rev: str | None, kind: str) -> str:
        """The new revision; `rev` None: whatever runs is replaced."""
        body = {"flows": nodes} | ({} if rev is None else {"rev": rev})
        return str(self._ask("POST", "/flows", body, {"Node-RED-Deployment-Type": kind})["rev"])

    def _ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        sent = {"Accept": "application/json", "Node-RED-API-Version": "v2", **(headers or {})}
        if self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            sent["Content-Type"] = "application/json"
        request = urllib.request.Request(f"{self._root}{path}", data, sent, method=method)  # noqa: S310 - http only, see above
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise AdminError(_refusal(error, self._root), error.code) from None
        except OSError as error:
            reason = getattr(error, "reason", None) or error
            raise AdminError(f"{self._root} does not answer: {reason}") from None
        try:
            return json.loads(text) if text.strip().startswith((b"{", b"[")) else {}
        except ValueError:
            raise AdminError(f"{self._root}{path} answers something else than an admin API") from None


def _refusal(error: urllib.error.HTTPError, root: str) -> str:
    """What the far side says, for a person."""
    with error:
        text = error.read().decode("utf-8", "replace")
    if text.startswith('{"error":{'):  # how a gateway answers outside of its editor
        return f"{root} is a gateway's page and API; its flow is below /editor: --url {root}/editor ({error.code})"
    if error.code == 401:
        return "a login is needed: give --user, or another one (401)"
    if error.code == 409:
        return "the flow was deployed by somebody else meanwhile; look again, or use --force (409)"
    try:
        found = json.loads(text)
        said = found.get("message") or found.get("error_description") or text
    except (ValueError, AttributeError):
        said = text or str(error.reason)
    return f"{said} ({error.code})"
