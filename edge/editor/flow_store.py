"""The gateway's flow as the editor has it: read, deployed, stopped; on disk what runs, and what ran before.

files = FlowFiles(path, …)                            # before the engine: which flow it starts with
engine = Engine(files.open(check), …)
store = FlowStore(path, engine, files=files)
rev = await store.deploy(nodes, rev, "nodes", user)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

from edge.editor.flow_files import FlowFiles, Notice, Pending, reason_of
from edge.editor.trial import TRIAL_S
from voltflow.admin.credentials import CompleteFlow, Credentials, cut, is_asked_as, shown
from voltflow.admin.flow_diff import changed_tabs
from voltflow.admin.users import User, has_permission
from voltflow.engine.engine import DeployError, Engine
from voltflow.flow.expand import RawNode
from voltflow.flow.flow import DRAWING, Flow, FlowError, Problem
from voltflow.flow.structure import faults
from voltflow.node import REGISTRY

__all__ = ["FlowStore", "Kind", "RevisionMismatch"]

Kind = Literal["full", "nodes", "flows", "reload"]
"""`full` restarts every node, `nodes` those that changed, `flows` all of the tabs with such nodes; `reload` takes what the
file says."""
State = Literal["start", "stop"]
KEPT_PROPERTIES: Final = ("only",)
"""What the flow says for the gateway alone: an editor, which does not know it, does not send it back."""


class RevisionMismatch(Exception):
    """Another deploy came in between; `rev` is what runs now."""

    def __init__(self, rev: str) -> None:
        super().__init__("the flow has been deployed by somebody else since it was read")
        self.rev = rev


class FlowStore:
    """All but `read`, `credentials` and the properties belongs into the engine's event loop."""

    def __init__(self, path: Path, engine: Engine, *, files: FlowFiles | None = None) -> None:
        self.files = files or FlowFiles(path)
        self._engine = engine
        self._flow = _complete(engine.flow)
        self._lock = asyncio.Lock()
        self._deploys: set[asyncio.Task[str]] = set()
        self._trial_ends_s: float | None = None
        self._woken = asyncio.Event()

    # -- what runs ------------------------------------------------------------------------------------------------

    def read(self) -> tuple[list[RawNode], str]:
        """The running flow without credentials, not to be changed, and its revision."""
        flow = self._flow
        return flow.bare, flow.rev

    @property
    def rev(self) -> str:
        return self._flow.rev

    def credentials(self, type: str, id: str) -> dict[str, Any]:
        """What may be shown of a node's credentials: texts, and `has_<name>` of passwords; nothing of a node that is not there.

        Raises LookupError where the node is of another type than who asks says.
        """
        found = next((raw for raw in self._flow.bare if raw["id"] == id), None)
        if found is None:
            return {}
        if not is_asked_as(found["type"], type):
            raise LookupError(f"node {id!r} is no {type!r}")
        return shown(found["type"], self._flow.credentials.get(id, {}))

    @property
    def state(self) -> State:
        return "stop" if self._engine.paused else "start"

    @property
    def notices(self) -> Sequence[Notice]:
        """What people should know of the flow: it is not the one of the last deploy, its credentials are not there."""
        if self.state == "start":
            return tuple(self.files.notices)
        return (
            *self.files.notices,
            Notice("flow_stopped", "the flow was stopped in the editor: sources take nothing in"),
        )

    @property
    def safe_mode(self) -> bool:
        """Whether the flow before the last one runs, because that one ended the gateway again and again."""
        return any(notice.code == "safe_mode" for notice in self.files.notices)

    # -- what changes it ------------------------------------------------------------------------------------------

    async def deploy(
        self,
        nodes: Sequence[RawNode],
        rev: str | None,
        kind: Kind,
        user: User | None = None,
        credentials: Any = None,
    ) -> str:
        """Replace the running flow and its file; the new revision. Whatever it raises, the old flow runs on, on disk too.

        `credentials`: encrypted as in their file, all of them; otherwise by node id, all that those nodes have.
        Raises CredentialsError where they cannot be read, RevisionMismatch where `rev` is not what runs (None: whatever runs is replaced), FlowError where the flow is
        wrong or the user may not deploy it, DeployError where it does not start or cannot be written.
        """
        if kind not in get_args(Kind):
            raise ValueError(f"deploy {kind!r} is not one of {', '.join(get_args(Kind))}")
        # a task of its own: who asked may go away meanwhile, and half a deploy is none
        work = self._deploy(nodes, rev, kind, user, credentials)
        task = asyncio.create_task(work, name=f"deploy {kind}")
        self._deploys.add(task)
        task.add_done_callback(self._deploys.discard)
        return await asyncio.shield(task)

    async def _deploy(
        self, nodes: Sequence[RawNode], rev: str | None, kind: Kind, user: User | None, credentials: Any
    ) -> str:
        async with self._lock:
            if kind == "reload":
                return await self._reload()
            if rev is not None and rev != self.rev:
                raise RevisionMismatch(self.rev)
            flow = await asyncio.to_thread(self._checked, list(nodes), user, credentials)
            pending = await self._prepare(flow)
            try:
                await self._run(flow, kind)
            except BaseException:
                await asyncio.to_thread(pending.give_up)
                raise
            await self._take_place(pending, flow)
            self._now(flow)
            return flow.rev

    async def set_state(self, state: State) -> None:
        """Stop or start: stopped, sources take nothing in, and what they are sent is not acknowledged; what is under way
        goes its way. A restart of the gateway starts."""
        async with self._lock:
            await (self._engine.pause() if state == "stop" else self._engine.resume())
        self._engine.events.tell("notification/runtime-state", {"state": state})

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Around the engine's run: a flow that lets it end by an error within a minute is remembered for it."""
        self.files.trial.begin(running=self.files.on_trial)
        if self.files.on_trial:
            self._trial_ends_s = self._engine.timer.now_s() + TRIAL_S
        watching = asyncio.create_task(self._watch_trial(), name="trial of the flow")
        try:
            yield
            self.files.trial.ended()
        finally:
            watching.cancel()

    # -- steps of a deploy ----------------------------------------------------------------------------------------

    def _checked(self, nodes: list[RawNode], user: User | None, credentials: Any) -> CompleteFlow:
        """The flow with the credentials it is to run with; raises FlowError and CredentialsError."""
        nodes = [_with_kept(raw, before) for raw, before in _beside(nodes, self._flow.bare)]
        known: Credentials = self._flow.credentials
        if credentials is not None:
            given = self.files.opened(credentials)
            known = given if "$" in credentials else {**known, **given}
            nodes = [_without_own(raw) if raw["id"] in given else raw for raw in nodes]
        flow = CompleteFlow(*cut(nodes, known))
        problems = [*self._forbidden(flow, user), *self._lost(flow), *self._engine.check(flow)]
        if errors := [problem for problem in problems if problem.severity == "error"]:
            raise FlowError(errors)
        return flow

    def _lost(self, flow: CompleteFlow) -> list[Problem]:
        """Nodes that no editor shows where they are, and that would run: a file of before may have such, a deploy not."""
        return [
            Problem(fault.raw["id"], flow.label_of(fault.raw), fault.text)
            for fault in faults(flow.bare)
            if fault.runs
        ]

    def _forbidden(self, flow: CompleteFlow, user: User | None) -> list[Problem]:
        """Nodes that are new or changed and whose type (Python code) needs a permission that the user has not."""
        if user is None:
            return []
        return [
            Problem(
                raw["id"],
                flow.label_of(raw),
                f'user {user.username} has no permission "{needed}", which a new or changed {raw["type"]} node needs',
            )
            for raw, before in _beside(flow.bare, self._flow.bare)
            if (needed := _needed(raw["type"])) and not has_permission(user.permissions, needed)
            if before is None or _matter(raw) != _matter(before)
        ]

    async def _prepare(self, flow: CompleteFlow) -> Pending:
        try:
            return await asyncio.to_thread(self.files.prepare, flow, self._flow.credentials)
        except OSError as error:
            raise self._not_written(error) from error

    def _not_written(self, error: OSError) -> DeployError:
        return DeployError(
            f"'{self.files.path}' cannot be written: {reason_of(error)}; the flow that ran before runs on"
        )

    async def _run(self, flow: CompleteFlow, kind: Kind) -> None:
        tabs = changed_tabs(self._engine.flow.nodes, flow.nodes) if kind == "flows" else ()
        await self._engine.deploy(flow, restart_all=kind in ("full", "reload"), restart_tabs=tabs)

    async def _take_place(self, pending: Pending, flow: CompleteFlow) -> None:
        try:
            await asyncio.to_thread(pending.take_place)
        except OSError as error:
            await asyncio.to_thread(pending.give_up)
            try:
                await self._engine.deploy(self._flow)
            except DeployError:
                self._flow = flow
                text = f"'{self.files.path}' cannot be written: {reason_of(error)}; what runs is lost with a restart"
                self.files.notices.append(Notice("flow_not_saved", text))
            raise self._not_written(error) from error

    async def _reload(self) -> str:
        try:
            flow = await asyncio.to_thread(self.files.load)
        except (OSError, UnicodeDecodeError) as error:
            raise DeployError(f"'{self.files.path}' cannot be read: {reason_of(error)}") from error
        await self._run(flow, "reload")
        await asyncio.to_thread(self.files.has_taken, flow)
        self._now(flow)
        return flow.rev

    def _now(self, flow: CompleteFlow) -> None:
        self._flow = flow
        self._trial_ends_s = self._engine.timer.now_s() + TRIAL_S
        self._woken.set()

    async def _watch_trial(self) -> None:
        timer = self._engine.timer
        while True:
            self._woken.clear()
            if self._trial_ends_s is not None and self._trial_ends_s <= timer.now_s():
                self._trial_ends_s = None
                self.files.trial.passed()
            await timer.until(self._trial_ends_s, self._woken)


def _complete(flow: Flow) -> CompleteFlow:
    return flow if isinstance(flow, CompleteFlow) else CompleteFlow(*cut(flow.nodes, {}))


def _beside(nodes: Sequence[RawNode], before: Sequence[RawNode]) -> list[tuple[RawNode, RawNode | None]]:
    """Each node beside what it was, if it was there with the same type."""
    known = {(raw["id"], raw["type"]): raw for raw in before}
    return [(raw, known.get((raw["id"], raw["type"]))) for raw in nodes]


def _with_kept(raw: RawNode, before: RawNode | None) -> RawNode:
    """The node with what an editor does not know of it; who switches it on or off decides from then on."""
    if before is None or bool(raw.get("d")) != bool(before.get("d")):
        return raw
    return {**raw, **{name: before[name] for name in KEPT_PROPERTIES if name in before and name not in raw}}


def _without_own(raw: RawNode) -> RawNode:
    return {name: value for name, value in raw.items() if name != "credentials"}


def _needed(type: str) -> str:
    """The permission that a node type declares."""
    spec = REGISTRY.get(type)
    return str(getattr(spec.cls, "needs_permission", "")) if spec else ""


def _matter(raw: RawNode) -> Mapping[str, Any]:
    return {name: value for name, value in raw.items() if name not in DRAWING | {"z"}}
