"""Flows as Node-RED's editor and admin API read and deploy them; credentials; stop and start.

A deploy that is refused changes nothing; what its answer says is shown by the editor as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, get_args

from edge.editor import single_flow
from edge.editor.flow_store import FlowStore, Kind, RevisionMismatch, State
from edge.editor.http import CHANGES_FLOWS, NO_CONTENT, Api, EditorError, Request
from edge.editor.loop import Loop
from voltflow.admin.credentials import CredentialsError
from voltflow.admin.flow_diff import differences, in_brief
from voltflow.engine.engine import DeployError
from voltflow.flow.flow import FlowError

log = logging.getLogger(__name__)

_KINDS: Final[dict[str, Kind]] = {kind: kind for kind in get_args(Kind)}
_STATES: Final[dict[str, State]] = {state: state for state in get_args(State)}
_PROBLEMS: Final = 20
"""Of a flow that are told at once."""


class Flows:
    """The handlers. `check_types` raises EditorError for types that are switched off; `deployed` hears of a revision."""

    def __init__(
        self,
        store: FlowStore,
        loop: Loop,
        check_types: Callable[[set[str]], None],
        deployed: Callable[[str], None],
    ) -> None:
        self._store, self._loop = store, loop
        self._check_types, self._deployed = check_types, deployed

    def add_to(self, api: Api) -> None:
        api.get("/flows", self.read, needs="flows.read")
        api.route("POST", "/flows", self.deploy, needs=CHANGES_FLOWS)
        api.get("/flows/state", self.state, needs="flows.read")
        api.route("POST", "/flows/state", self.set_state, needs=CHANGES_FLOWS)
        api.route("POST", "/flow", self.add, needs=CHANGES_FLOWS)
        api.get("/flow/<id>", self.read_one, needs="flows.read")
        api.route("PUT", "/flow/<id>", self.put_one, needs=CHANGES_FLOWS)
        api.route("DELETE", "/flow/<id>", self.delete_one, needs=CHANGES_FLOWS)
        api.get("/credentials/<type>/<id>", self.credentials, needs="credentials.read")

    # -- all flows ----------------------------------------------------------------------------------------------------

    def read(self, request: Request) -> Any:
        nodes, rev = self._loop.call(self._store.read)
        return {"flows": nodes, "rev": rev} if _is_v2(request) else nodes

    def deploy(self, request: Request) -> Any:
        v2 = _is_v2(request)
        asked = request.header("Node-RED-Deployment-Type") or "full"
        kind = _KINDS.get(asked)
        if kind is None:
            text = f"deployment type {asked!r} is not one of {', '.join(_KINDS)}"
            raise EditorError(400, "invalid_request", text)
        if kind == "reload":
            rev = self._put(request, [], None, kind)
        else:
            body = request.json()
            credentials = body.get("credentials") if isinstance(body, dict) else None
            rev = self._put(request, *_of_body(body, v2=v2), kind, credentials)
        return {"rev": rev} if v2 else NO_CONTENT

    def _put(
        self,
        request: Request,
        nodes: list[dict[str, Any]],
        rev: str | None,
        kind: Kind,
        credentials: Any = None,
    ) -> str:
        """Deploy; what is in the way becomes an answer."""
        self._check_types({str(node.get("type")) for node in nodes})
        user = request.user
        before, _ = self._loop.call(self._store.read)
        try:
            new = self._loop.run(self._store.deploy(nodes, rev, kind, user, credentials))
        except CredentialsError as error:
            raise EditorError(400, "invalid_credentials", str(error)) from None
        except RevisionMismatch as error:
            raise EditorError(409, "version_mismatch", str(error)) from None
        except FlowError as error:
            lines = _problems(error)
            raise EditorError(400, "invalid_flow", "\n".join(lines), lines) from None
        except UnicodeEncodeError:
            raise EditorError(
                400, "invalid_flow", "half of a surrogate pair stands alone in a text"
            ) from None
        except DeployError as error:
            raise EditorError(400, "deploy_failed", str(error), [str(error)]) from None
        self._deployed(new)
        now, _ = self._loop.call(self._store.read)
        changes = in_brief(differences(before, _with_credentials(now, nodes)))
        log.info("%s deployed (%s): %s; revision %s", request.who, kind, changes, new[:12])
        return new

    # -- running ------------------------------------------------------------------------------------------------------

    def state(self, request: Request) -> dict[str, str]:
        return {"state": self._loop.call(lambda: self._store.state)}

    def set_state(self, request: Request) -> dict[str, str]:
        asked = str(request.fields().get("state", ""))
        state = _STATES.get(asked)
        if state is None:
            raise EditorError(400, "invalid_run_state", f"state {asked!r} is not one of {', '.join(_STATES)}")
        try:
            self._loop.run(self._store.set_state(state))
        except (FlowError, DeployError) as error:
            raise EditorError(400, "deploy_failed", str(error)) from None
        log.info("%s: flows %s", request.who, "stopped" if state == "stop" else "started")
        return {"state": state}

    # -- one tab ------------------------------------------------------------------------------------------------------

    def add(self, request: Request) -> dict[str, str]:
        nodes, rev = self._loop.call(self._store.read)
        changed, id = _edited(lambda: single_flow.add_flow(nodes, request.fields()))
        self._put(request, changed, rev, "flows")
        return {"id": id}

    def read_one(self, request: Request, id: str) -> dict[str, Any]:
        nodes, _ = self._loop.call(self._store.read)
        found: dict[str, Any] = _edited(lambda: single_flow.get_flow(nodes, id))
        return found

    def put_one(self, request: Request, id: str) -> dict[str, str]:
        nodes, rev = self._loop.call(self._store.read)
        self._put(request, _edited(lambda: single_flow.put_flow(nodes, id, request.fields())), rev, "flows")
        return {"id": id}

    def delete_one(self, request: Request, id: str) -> Any:
        nodes, rev = self._loop.call(self._store.read)
        self._put(request, _edited(lambda: single_flow.delete_flow(nodes, id)), rev, "flows")
        return NO_CONTENT

    def credentials(self, request: Request, type: str, id: str) -> dict[str, Any]:
        """What of a node's credentials may be shown; never a password."""
        try:
            return self._loop.call(lambda: self._store.credentials(type, id))
        except LookupError as error:
            raise EditorError(404, "not_found", str(error)) from None


def _is_v2(request: Request) -> bool:
    version = request.header("Node-RED-API-Version") or "v1"
    if version not in ("v1", "v2"):
        raise EditorError(400, "invalid_api_version", "Node-RED-API-Version is to be v1 or v2")
    return version == "v2"


def _of_body(body: Any, *, v2: bool) -> tuple[list[dict[str, Any]], str | None]:
    """Nodes and the revision they are based on; none: whatever is there is replaced."""
    if v2 and not isinstance(body, dict):
        raise EditorError(
            400, "invalid_flow", 'the body is to be an object with "flows", and "rev" where it has one'
        )
    nodes = body.get("flows") if v2 else body
    if not isinstance(nodes, list) or not all(
        isinstance(node, dict) and isinstance(node.get("id"), str) and isinstance(node.get("type"), str)
        for node in nodes
    ):
        raise EditorError(
            400, "invalid_flow", 'a flow is a list of nodes, objects with the texts "id" and "type"'
        )
    rev = body.get("rev") if v2 else None
    return nodes, None if rev is None else str(rev)


def _with_credentials(nodes: list[dict[str, Any]], sent: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The nodes as they run, with the credentials that came along: those that changed."""
    given = {raw["id"]: raw["credentials"] for raw in sent if raw.get("credentials")}
    return [{**raw, "credentials": given[raw["id"]]} if raw["id"] in given else raw for raw in nodes]


def _problems(error: FlowError) -> list[str]:
    """What is wrong with a flow, as much of it as people read at once."""
    texts = [f"{item.label}: {item.text}" for item in error.problems if item.severity == "error"]
    more = [f"and {len(texts) - _PROBLEMS} more"] if len(texts) > _PROBLEMS else []
    return [*texts[:_PROBLEMS], *more]


def _edited(edit: Callable[[], Any]) -> Any:
    try:
        return edit()
    except single_flow.NoFlowError as error:
        raise EditorError(404, "not_found", str(error)) from None
    except single_flow.WrongFlowError as error:
        raise EditorError(400, "invalid_flow", str(error)) from None
