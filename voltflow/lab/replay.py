"""What a change of a flow does to real traffic: both flows run on a recording in the lab, and what they give is compared."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any, Final, NamedTuple

from voltflow.flow.environment import Environment
from voltflow.flow.expand import Part
from voltflow.flow.flow import Flow
from voltflow.lab.host import variables
from voltflow.lab.lab import FlowLab, Seen
from voltflow.lab.match import shown
from voltflow.lab.record import Recorded, RecordingError
from voltflow.message import Msg
from voltflow.mqtt.codec import matches
from voltflow.node import REGISTRY, Sink, load_installed_nodes

REST_S: Final = 86400.0
"""After the last message what nodes still hold comes out for so long at most."""
ALERT_SCHEMA: Final = "alert/1"
_VARIABLE = re.compile(r"\$\{([^}]+)\}")


class Output(NamedTuple):
    """What reached a sink: when (seconds after the first message), on which topic, what, by way of which property values."""

    at_s: float
    topic: str
    payload: Any
    props: Mapping[str, Any]


@dataclass
class Outcome:
    """What a flow made of a recording, by the label of the sink; dead letters and alerts apart."""

    outputs: dict[str, list[Output]] = field(default_factory=dict)
    dead: list[Output] = field(default_factory=list)


class Differing(NamedTuple):
    """An output that is not the same: only `old`, only `new`, or both and then what of it changed."""

    old: Output | None
    new: Output | None


def run(
    flow: Flow, recorded: Sequence[Recorded], env: Mapping[str, str], folder: Path | None = None
) -> Outcome:
    """Run a flow on a recording, in a lab with that folder; raises FlowError where it cannot run, LabError where it does not come to rest."""
    load_installed_nodes()
    parts = flow.expanded.parts
    sinks = [part for part in parts.values() if issubclass(REGISTRY[part.type].cls, Sink)]
    start_s = recorded[0].at_ms / 1000
    filters = _filters(parts, {**variables(), **env})
    with FlowLab(flow, env=env, start_s=start_s, watch=[part.id for part in sinks], folder=folder) as lab:
        for at_ms, items in groupby(recorded, key=lambda item: item.at_ms):
            lab.advance(max(0.0, at_ms / 1000 - start_s - lab.now_s))
            lab.send_all(_arrivals(list(items), filters))
        lab.rest(REST_S)
        outputs: dict[str, list[Output]] = {}
        for part in sinks:
            outputs.setdefault(_label(part), []).extend(map(_output, lab.reached(part.id)))
        dead = [
            Output(letter.at_s, letter.original.topic, letter.original.payload, {"node": letter.node, "error": letter.error})
            for letter in lab.dead
        ]  # fmt: skip
    return Outcome(outputs, dead)


def _filters(parts: Mapping[str, Part], env: Mapping[str, str]) -> dict[str, str]:
    """The topic filters of the `mqtt in` nodes, by node id."""
    return {
        part.id: _filled(str(part.raw.get("topic", "")), Environment(part.variables, env))
        for part in parts.values()
        if part.type == "mqtt in"
    }


def _filled(text: str, env: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda match: env.get(match[1], ""), text)


def filters_of(flow: Flow, env: Mapping[str, str]) -> list[str]:
    """The topic filters that a flow subscribes to, each once; those of variables that are not set are left out."""
    load_installed_nodes()
    return list(dict.fromkeys(filter(None, _filters(flow.expanded.parts, {**variables(), **env}).values())))


def _arrivals(items: Sequence[Recorded], filters: Mapping[str, str]) -> list[tuple[str, Msg]]:
    """What of the recording comes to which node, those for one node after each other."""
    return [
        (node, Msg(item.topic, item.payload, None, item.at_ms, {"retain": True} if item.retain else None))
        for node, topic_filter in filters.items()
        for item in items
        if matches(topic_filter, item.topic)
    ]


def _label(part: Part) -> str:
    """By which the same sink is found in both flows."""
    return f"{part.type} {part.raw.get('name') or part.id!r}"


def _output(seen: Seen) -> Output:
    return Output(round(seen.at_s, 3), seen.topic, seen.payload, seen.props)


# -- comparing ----------------------------------------------------------------------------------------------------


def compare(old: Outcome, new: Outcome) -> dict[str, list[Differing]]:
    """What is not the same, by sink; alerts and dead letters under a heading of their own."""
    found: dict[str, list[Differing]] = {"alerts": [], "dead letters": list(_differing(old.dead, new.dead))}
    for label in dict.fromkeys([*old.outputs, *new.outputs]):
        for item in _differing(old.outputs.get(label, ()), new.outputs.get(label, ())):
            found.setdefault("alerts" if _is_alert(item) else label, []).append(item)
    return {label: items for label, items in found.items() if items}


def _is_alert(item: Differing) -> bool:
    return any(
        isinstance(output.payload, Mapping) and output.payload.get("schema") == ALERT_SCHEMA
        for output in (item.old, item.new)
        if output is not None
    )


def _differing(old: Sequence[Output], new: Sequence[Output]) -> Iterator[Differing]:
    """Side by side are those of the same time and topic."""
    before, after = _by_moment(old), _by_moment(new)
    for moment in sorted({*before, *after}):
        for pair in zip_longest(*_unequal(before.get(moment, []), after.get(moment, []))):
            yield Differing(*pair)


def _by_moment(outputs: Sequence[Output]) -> dict[tuple[float, str], list[Output]]:
    found: dict[tuple[float, str], list[Output]] = {}
    for output in outputs:
        found.setdefault((output.at_s, output.topic), []).append(output)
    return found


def _unequal(old: list[Output], new: list[Output]) -> tuple[list[Output], list[Output]]:
    """Those that have no equal on the other side."""
    left = list(new)
    only_old = []
    for output in old:
        if output in left:
            left.remove(output)
        else:
            only_old.append(output)
    return only_old, left


def changes(old: Any, new: Any, path: str = "payload") -> Iterator[str]:
    """What is different between two values, a line each.

    >>> list(changes({"a": 1, "b": [1, 2]}, {"a": 2, "b": [1, 2], "c": 0}))
    ['payload.a: 1 → 2', 'payload.c: new, 0']
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys([*old, *new]):
            if name not in new:
                yield f"{path}.{name}: gone, was {shown(old[name])}"
            elif name not in old:
                yield f"{path}.{name}: new, {shown(new[name])}"
            else:
                yield from changes(old[name], new[name], f"{path}.{name}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from changes(one, other, f"{path}[{index}]")
    elif old != new:
        yield f"{path}: {shown(old)} → {shown(new)}"


# -- told ---------------------------------------------------------------------------------------------------------


def in_words(old: Outcome, new: Outcome, most: int = 10) -> list[str]:
    """What is different, for people: for each sink a line and the first `most` messages."""
    found = compare(old, new)
    lines = []
    for label, items in found.items():
        lines.append(f"{label}: {_counts(items)}")
        for item in items[:most]:
            lines += [f"  {line}" for line in _told(item)]
        if len(items) > most:
            lines.append(f"  … and {len(items) - most} more")
    same = sum(map(len, new.outputs.values()))
    return lines or [f"the outputs are the same: {same:,} messages, {len(new.dead)} dead letters"]


def _counts(items: Sequence[Differing]) -> str:
    numbers = {
        "only before": sum(item.new is None for item in items),
        "only after": sum(item.old is None for item in items),
        "changed": sum(item.old is not None and item.new is not None for item in items),
    }
    return ", ".join(f"{count} {word}" for word, count in numbers.items() if count)


def _told(item: Differing) -> Iterator[str]:
    one = item.old or item.new
    assert one is not None
    where = f"at {one.at_s:g} s {one.topic}".rstrip()
    if item.old is not None and item.new is not None:
        what = [
            *changes(item.old.payload, item.new.payload),
            *changes(dict(item.old.props), dict(item.new.props), "msg"),
        ]
        yield f"changed      {where}: {'; '.join(what[:4])}{' …' if len(what) > 4 else ''}"
    else:
        error = (
            f" ({one.props['node']}: {one.props['error']})"
            if "error" in one.props and "node" in one.props
            else ""
        )
        yield f"{'only after ' if item.old is None else 'only before'}  {where}: {shown(one.payload, 160)}{error}"


def replay(old: Flow, new: Flow, recorded: Sequence[Recorded], env: Mapping[str, str]) -> list[str]:
    """Run both flows on a recording: what is different, for people. Empty where nothing is."""
    if not recorded:
        raise RecordingError("nothing was recorded")
    with tempfile.TemporaryDirectory(prefix="voltflow-replay-") as name:
        # one after the other in the same folder: what nodes say of it differs only where the flows do
        before, after = (run(flow, recorded, env, Path(name) / "lab") for flow in (old, new))
    return in_words(before, after) if compare(before, after) else []
