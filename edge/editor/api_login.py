"""Logins, as Node-RED's editor and `node-red-admin` ask for them."""

from __future__ import annotations

from typing import Any, Final

from edge.editor.auth import Auth, LoginRefused
from edge.editor.http import Api, EditorError, Reply, Request, to_json

_PROMPTS: Final = {
    "type": "credentials",
    "prompts": [
        {"id": "username", "type": "text", "label": "user.username"},
        {"id": "password", "type": "password", "label": "user.password"},
    ],
}
_CLIENTS: Final = frozenset({"node-red-editor", "node-red-admin"})


class Logins:
    """The handlers."""

    def __init__(self, auth: Auth) -> None:
        self._auth = auth

    def add_to(self, api: Api) -> None:
        api.get("/auth/login", self.how)
        api.route("POST", "/auth/token", self.token)
        api.route("POST", "/auth/revoke", self.revoke)

    def how(self, request: Request) -> Any:
        """What the login dialog asks for; nothing where nobody has to log in."""
        return _PROMPTS if self._auth.required else {}

    def token(self, request: Request) -> Any:
        if self._auth.closed:
            raise EditorError(403, "closed", self._auth.closed)
        fields = {name: str(value) for name, value in request.fields().items()}
        if fields.get("client_id") not in _CLIENTS or fields.get("grant_type") != "password":
            return _refused(
                "invalid_request", "client_id and grant_type are those of Node-RED's editor and admin", 400
            )
        scope = fields.get("scope", "")
        wanted = scope.split() if " " in scope else scope
        try:
            login = self._auth.login(
                fields.get("username", ""), fields.get("password", ""), request.address, wanted
            )
        except LoginRefused as error:
            return _refused("invalid_grant", str(error), 403)
        return {"access_token": login.token, "expires_in": login.expires_in_s, "token_type": "Bearer"}

    def revoke(self, request: Request) -> Reply:
        """Whoever has a token may end it."""
        self._auth.revoke(str(request.fields().get("token", "")))
        return Reply()


def _refused(code: str, text: str, status: int) -> Reply:
    return Reply(to_json({"error": code, "error_description": text}), "application/json", status)
