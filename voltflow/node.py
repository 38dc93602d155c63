"""What a node is: three kinds, typed configuration, and the registry that everything else reads.

A node is one file: a dataclass whose fields are its configuration, and one method. `voltflow nodes`, the checks of a
flow, the editor's form and the documentation all come from that declaration.

    @node("threshold", category="battery", color="#f6c177")
    class Threshold(Transform):
        \"\"\"Pass messages whose field lies outside [low, high].\"\"\"

        field: str = config("cell_temp_max_c", help="payload field to look at")
        high: float = config(55.0, help="upper limit", unit="°C")

        def process(self, msgs: list[Msg]) -> list[Msg]: ...
"""

from __future__ import annotations

import builtins
import dataclasses
import importlib
import importlib.metadata
import inspect
import os
import pkgutil
import re
import secrets
import typing
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, dataclass_transform

from voltflow.engine.context import Contexts, Memory
from voltflow.engine.events import Badge, Events
from voltflow.engine.timer import Timer, WallTimer
from voltflow.flow.environment import Hidden, Shown, hide_secrets
from voltflow.flow.field import ConfigError, Field, VariableMissing, config
from voltflow.message import Msg

if typing.TYPE_CHECKING:
    from voltflow.engine.holding import Entry, Holding

__all__ = [
    "REGISTRY",
    "ConfigError",
    "ConfigNode",
    "Context",
    "DeadLetterSink",
    "Emit",
    "Failure",
    "Field",
    "Holder",
    "Node",
    "NodeSpec",
    "Ports",
    "Rejected",
    "Sink",
    "SinkUnavailable",
    "Source",
    "Transform",
    "VariableMissing",
    "Worker",
    "config",
    "load_installed_nodes",
    "load_nodes",
    "node",
    "process_env",
]  # fmt: skip

Emit = Callable[[list[Msg]], Awaitable[None]]
"""`await emit(msgs)` returns when every sink has made the batch safe and raises when it is not."""

Ports = Sequence[list[Msg]]
"""One list of messages for each output port."""


class SinkUnavailable(Exception):
    """The far side cannot take a batch now (down, restarting, refusing connections): the engine tries again later.

    Any other exception out of `Sink.write` says that the data is at fault: the engine isolates the message.
    """


class Rejected(Exception):
    """Raised by a sink for the messages the far side refused for good, after all others of the batch are safe."""

    def __init__(self, refused: list[tuple[Msg, str]]) -> None:
        super().__init__(f"{len(refused)} message(s) refused, the first: {refused[0][1]}")
        self.refused = refused


@dataclass(frozen=True)
class Failure:
    """The payload of a message on its way to a dead-letter sink: which node failed with what; the message's origin
    has the original topic and bytes. `id` is the letter's, however often it is written."""

    node: str
    error: str
    id: str = dataclasses.field(default_factory=lambda: secrets.token_hex(16), compare=False)


T = TypeVar("T")


@dataclass
class Context:
    """What the host gives a node when it starts: its config nodes, the host's services, the state directory."""

    nodes: Mapping[str, Node]
    services: Mapping[type, object]
    gateway: str
    flow_rev: str
    state_dir: Path
    timer: Timer = dataclasses.field(default_factory=WallTimer)
    events: Events = dataclasses.field(default_factory=Events)
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What `${NAME}` may name and is no secret, by name; a node's own subflow and tab first."""
    flows: tuple[str, ...] = ()
    """The flows that a node's own is in, the innermost first: where it is in a subflow instance."""
    _forgotten: Contexts = dataclasses.field(default_factory=Contexts)

    def __post_init__(self) -> None:
        self.env = Shown(self.env)

    def memory(self, kind: Literal["node", "flow", "global"], node: Node) -> Memory:
        """What the node, all nodes of its tab or all of the flow remember; durable where the host keeps `Contexts`."""
        contexts = typing.cast("Contexts", self.services.get(Contexts, self._forgotten))
        if kind != "flow":
            return contexts.scope(kind, node.id if kind == "node" else "")
        memory = contexts.scope("global")
        for flow in reversed((node.tab, *self.flows)):
            memory = contexts.scope("flow", flow, memory)
        return memory

    def service(self, kind: type[T]) -> T:
        """The host's service of that class, for instance the twin store of an agent."""
        try:
            return typing.cast("T", self.services[kind])
        except KeyError:
            raise ConfigError(
                f"this program has no {kind.__name__}: the node belongs into another one"
            ) from None

    def config_node(self, node_id: str, kind: type[T]) -> T:
        """The config node a `reference` field points to."""
        found = self.nodes.get(node_id)
        if not isinstance(found, kind):
            raise ConfigError(f"config node {node_id!r} is not there")
        return found


class Node:
    """What all nodes have. Constructors do no I/O: that is for `start`."""

    type: ClassVar[str]
    spec: ClassVar[NodeSpec]
    id: str = ""
    name: str = ""
    tab: str = ""
    path: str = ""
    """Where it is: its tab, and the subflow instances it is in, the outermost first, by `/`."""
    drawn_as: str = ""
    """Its id in the file, which it shares with its likes in other instances of a subflow."""
    ports: int = 0
    """How many outputs it has: `outputs_of` its properties."""
    badge: Badge = {}  # noqa: RUF012 - never changed, only replaced
    badge_with_traffic: ClassVar[bool] = False
    """Whether the editor shows what flows through the node beside its badge, not only where it has none."""
    on_badge: Callable[[Node], None] | None = None

    @classmethod
    def outputs_of(cls, properties: Mapping[str, Any]) -> int:
        """How many outputs a node with these properties has: as its type says, or its own property `outputs`."""
        field = next((field for field in cls.spec.fields if field.name == "outputs"), None)
        if field is None:
            return cls.spec.outputs
        try:
            return int(field.coerce(properties.get("outputs")))
        except ConfigError:  # its own check names it
            return cls.spec.outputs

    @classmethod
    def inputs_of(cls, properties: Mapping[str, Any]) -> int:
        """How many inputs a node with these properties has: 0 or 1."""
        return cls.spec.inputs

    async def start(self, ctx: Context) -> None:
        """Open what the node needs; called once before the flow's sources run."""

    async def take_over(self) -> None:
        """The node runs from now on, and the one that it replaces in a deploy has stopped: open what only one of them can
        have, such as a connection with a client id. Called after all have started; it does not fail."""

    async def stop(self) -> None:
        """Close it; called after the flow's last batch."""

    def leave_to(self, successor: Node | None) -> int:
        """A deploy has replaced it (None: removed it), and it has stopped: give on what it took and has only in memory. How many
        messages nobody takes. It does not fail."""
        return 0

    def status(self) -> dict[str, Any]:
        """What a person would want to know of this node now, for `/api/flow`; cheap."""
        return {}

    def show(self, badge: Badge) -> None:
        """Set what stands below the node in the editor, and tell `status` nodes; the same again tells nobody."""
        if badge != self.badge:
            self.badge = badge
            if self.on_badge is not None:
                self.on_badge(self)

    @property
    def badge_id(self) -> str:
        """Of the node that its badge stands below."""
        return self.id

    @property
    def label(self) -> str:
        return self.name or f"{self.type}:{self.id}"


class Source(Node):
    """Where messages enter. It may have several `emit` under way; it acknowledges when each returns.

    One that takes messages as well is a `Worker` too, and says by `inputs_of` that it has an input.
    """

    async def run(self, emit: Emit) -> None:
        """Emit until cancelled; then wait for what is under way (the engine bounds that) and return."""
        raise NotImplementedError

    def attach(self) -> None:
        """Begin to receive, at once: after the start, or because the deploy for which it was retired was given up."""

    def retire(self) -> bool:
        """Take nothing more, at once: another node takes its place. Whether `run` then returns by itself, when what was
        taken is safe; otherwise it is cancelled. What comes until `detach` or `attach` is neither taken nor given up."""
        return False

    def detach(self) -> None:
        """It is out of the flow for good; called once `run` has ended, or where a deploy was given up, of a source that
        was attached for it. What came and was not taken is not wanted."""

    def process(self, msgs: list[Msg]) -> list[Msg] | Ports:
        """What the flow gets of an emitted batch: decode here, so that the engine isolates a message that fails."""
        return msgs


class Transform(Node):
    """Messages in, messages out: synchronous, no I/O.

    It is called with a whole batch. When it raises, the engine halves the batch and calls it again until the messages
    it fails on stand alone, so a transform that keeps state changes it only after nothing can fail any more. The list
    it is given may also be another node's: it makes new ones.
    """

    def process(self, msgs: list[Msg]) -> list[Msg] | Ports:
        """The messages for the output, or one list for each output port (a tuple)."""
        raise NotImplementedError


class Worker(Node):
    """Messages in, messages out, with I/O between: a request, a file.

    It gets batches one after the other, or up to `parallel` at once; a batch is not acknowledged before what it gave
    out is safe. An exception isolates the message at fault as in a transform; `SinkUnavailable` makes the engine try
    again later.
    """

    parallel: ClassVar[int] = 1

    async def work(self, msgs: list[Msg]) -> list[Msg] | Ports:
        """The messages for the output, or one list for each output port (a tuple)."""
        raise NotImplementedError


class Holder(Node):
    """Messages in, messages out later: a delay, a group that is not complete.

    `self.held` keeps messages (`voltflow.engine.holding`): what a node remembers of them beyond that must come back from
    `restore`. Nothing held is acknowledged and only in memory. `process` gets one message at a time, so that one it fails
    on takes nothing back of what others did: it computes first what may fail, and then changes what it remembers. Where
    nothing can be made of a whole group, `self.held.fail` lets that go.
    """

    if typing.TYPE_CHECKING:  # annotations of a node are looked at when it is registered
        held: Holding

    def process(self, msgs: list[Msg]) -> list[Msg] | Ports:
        """As a transform's; a message that is neither kept nor given out is done with."""
        raise NotImplementedError

    def due_s(self) -> float | None:
        """When `tick` is to be called, in the time of `held.now_s`; None: only after another message."""
        return None

    def tick(self) -> list[Msg] | Ports:
        """What is due now."""
        return []

    def restore(self, entry: Entry) -> list[Msg] | Ports:
        """Take a message again that was held before a restart or a deploy; by default as if it came now, at its time."""
        return self.process([entry.msg])

    def owed(self, group: str) -> bool:
        """Whether what a group holds has yet to come out: if the node is removed it becomes dead letters then."""
        return True

    def drop_held(self) -> list[Msg]:
        """Forget everything that is held, without giving it out; what that was."""
        return [msg for group in list(self.held.groups) for msg in self.held.release(group)]


class Sink(Node):
    """Where messages leave.

    The engine calls `write` in the order of the batches. Without `pipelined` the next call comes when the last has
    returned, with everything that waited in between as one batch; with it calls overlap, and the sink itself keeps
    the order in which they were made: it names messages at fault with `Rejected` after the others are safe, because
    what another exception makes the engine write again comes after the batches that were already under way.
    """

    pipelined: ClassVar[bool] = False

    async def write(self, msgs: list[Msg]) -> None:
        """Return when every message is safe. See `SinkUnavailable` and `Rejected` for what may be raised."""
        raise NotImplementedError


class DeadLetterSink(Sink):
    """A sink that also takes the messages other nodes failed on; their payload is a `Failure`."""


class ConfigNode(Node):
    """What several nodes share and no wire leads to, such as a broker."""

    def hand_over(self, successor: Node | None) -> None:
        """A deploy replaces it (None: removes it) and all that use it; called before their `retire`. Leave to the successor
        what comes from now on."""

    def take_back(self) -> None:
        """That deploy was given up: go on as before."""


NodeClass = type[Node]


@dataclass(frozen=True)
class NodeSpec:
    """A node type as the registry knows it."""

    type: str
    cls: NodeClass
    category: str
    color: str
    icon: str
    outputs: int
    inputs: int
    fields: tuple[Field, ...]
    help: str
    label: str
    """What the palette calls it."""

    @property
    def summary(self) -> str:
        return self.help.split("\n", 1)[0]

    def build(self, node_id: str, properties: Mapping[str, Any], env: Mapping[str, str]) -> Node:
        """An instance with checked configuration; raises ConfigError naming the property.

        A text value that is one `${NAME}` as a whole is replaced from `env`; by a hidden one only where it is a secret, too.
        """
        values: dict[str, Any] = {}
        for field in self.fields:
            if field.name in properties:
                values[field.attribute] = field.coerce(self._substituted(properties[field.name], env, field))
            elif field.required:
                raise ConfigError(f'property "{field.name}" is missing: {field.help}')
        built: Node = self.cls(**values)
        built.id = node_id
        built.name = str(properties.get("name", ""))
        built.tab = built.path = str(properties.get("z", ""))
        built.drawn_as = node_id
        built.ports = self.cls.outputs_of(properties)
        return built

    def _substituted(self, value: Any, env: Mapping[str, str], field: Field) -> Any:
        match = _VARIABLE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            return value
        if match[1] not in env:
            raise VariableMissing(f'property "{field.name}": the environment has no {match[1]} for {value}')
        found = env[match[1]]
        # what a worker sends may come back into the flow: the far side can be an endpoint of the flow's own
        if isinstance(found, Hidden) and (field.credential != "password" or issubclass(self.cls, Worker)):
            raise ConfigError(
                f'property "{field.name}": {match[1]} is a secret of the program, which only passwords of config nodes, '
                "sources and sinks may name; give this node one of its own"
            )
        return str(found)


_VARIABLE = re.compile(r"\$\{((?:\$parent\.)*[A-Za-z_][A-Za-z0-9_]*)\}")


REGISTRY: dict[str, NodeSpec] = {}
"""Every node type that was imported, by its type name."""

N = TypeVar("N", bound=Node)


@dataclass_transform(field_specifiers=(config,), kw_only_default=True)
def node(
    type: str,
    *,
    category: str,
    color: str = "#dddddd",
    icon: str = "font-awesome/fa-cog",
    outputs: int = 1,
    inputs: int = 1,
    label: str = "",
) -> Callable[[type[N]], type[N]]:
    """Register a class as a node type: makes it a dataclass and its fields the configuration.

    `label` is what the palette calls it, where that is not its type; one without category is not in it.
    """

    def register(cls: builtins.type[N]) -> builtins.type[N]:
        if not cls.__doc__:  # asked before dataclass() puts a signature there
            raise TypeError(f"node {type}: a docstring is its help")
        cls = dataclass(kw_only=True, eq=False)(cls)
        is_sink, is_source = issubclass(cls, Sink), issubclass(cls, Source)
        is_config = issubclass(cls, ConfigNode)
        cls.type = type
        cls.spec = NodeSpec(
            type, cls, category, color, icon,
            outputs=0 if is_sink or is_config else outputs,
            inputs=0 if is_source or is_config else inputs,
            fields=tuple(_fields(cls)), help=inspect.cleandoc(cls.__doc__ or ""), label=label or type,
        )  # fmt: skip
        REGISTRY[type] = cls.spec
        return cls

    return register


def _fields(cls: type[Node]) -> Iterator[Field]:
    hints = typing.get_type_hints(cls)
    for item in dataclasses.fields(typing.cast("Any", cls)):
        if "help" not in item.metadata:
            continue  # a dataclass field without config() is state, not configuration
        meta = dict(item.metadata)
        name = meta.pop("name") or item.name
        default = item.default
        if item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        yield Field(
            name=name,
            attribute=item.name,
            type=hints[item.name],
            default=default,
            **meta,
        )


def load_nodes(*packages: str) -> None:
    """Import every module below the packages (`voltflow.nodes`, `edge.nodes`), which registers their nodes."""
    for module in _modules(*packages):
        importlib.import_module(module)


def _modules(*packages: str) -> Iterator[str]:
    for package in packages:
        for found in pkgutil.iter_modules(importlib.import_module(package).__path__):
            yield f"{package}.{found.name}"


def load_installed_nodes() -> list[str]:
    """Import the node packages of everything installed here (entry points `voltflow.nodes`).

    Returns the modules that could not be imported, with the reason: a gateway has not the bridge's libraries.
    """
    left_out = []
    entries = importlib.metadata.entry_points(group="voltflow.nodes")
    if not entries:
        left_out.append('all of them: the installation names none ("voltflow.nodes"); install Voltflow again')
    for entry in entries:
        try:
            modules = list(_modules(entry.value))
        except ImportError as error:
            left_out.append(f"{entry.value}: {error}")
            continue
        for module in modules:
            try:
                importlib.import_module(module)
            except ImportError as error:
                left_out.append(f"{module}: {error}")
    return left_out


def process_env(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What `${NAME}` in a flow may name: the host's own values first, then the process environment."""
    return {**hide_secrets(os.environ), **(extra or {})}
