"""Test cases of a flow: the file beside it, and what comes of running it.

JSON, as the flow beside it: the same editor colours both, a JSON Schema (`docs/schema/flow.test-1.json`) completes and checks
it, and nothing has to be installed to read it. What YAML would save, repeated messages, `messages` and `like` do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from voltflow.flow.flow import Flow, FlowError
from voltflow.flow.properties import PathError, get, put
from voltflow.lab.lab import START_S, FlowLab, Seen
from voltflow.lab.match import MatchError, differences, shown
from voltflow.lab.places import LabError
from voltflow.message import Msg
from voltflow.nodelib.files import OutsideError

SUFFIX: Final = ".test.json"
SCHEMA: Final = "flow.test/1"
TIME_TOLERANCE_S: Final = 0.001
MOST_SHOWN: Final = 5

Object = dict[str, Any]
Seconds = Annotated[float, Meta(ge=0)]


class _Strict(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Read from a file in which people make mistakes."""


class Entry(_Strict):
    """Messages that come to a place of the flow."""

    to: Annotated[
        str, Meta(description='where: a node by id or name; "node#2", its second output; "a->b", a wire')
    ]
    at_s: Annotated[Seconds, Meta(description="when, seconds after the start of the case")] = 0.0
    like: Annotated[str, Meta(description='the message of that name in "messages"; "msg" changes it')] = ""
    msg: (
        Annotated[
            Object,
            Meta(
                description='the message: "topic", "payload" and other properties; without one: an inject\'s button'
            ),
        ]
        | None
    ) = None
    repeat: Annotated[int, Meta(ge=1, le=1_000_000, description="how many of them")] = 1
    every_s: Annotated[Seconds, Meta(description="time between them")] = 1.0
    add: Annotated[
        dict[str, int | float],
        Meta(description='what is added with each further one, by path: {"payload.seq": 1}'),
    ] = {}


class Some(_Strict):
    """What is expected of many messages."""

    count: Annotated[int, Meta(ge=0, description="how many came")] | None = None
    each: Annotated[Object, Meta(description="what every one of them is like")] | None = None
    first: Object | None = None
    last: Object | None = None
    contains: Annotated[list[Object], Meta(description="these came, in this order, among others")] = []


Expected = list[Object] | Some | Literal["none"]


class Case(_Strict):
    """One case: what comes in, and what is expected to come of it."""

    name: str
    in_: Annotated[list[Entry], Meta(description="messages in")] = msgspec.field(
        name="in", default_factory=list
    )
    out: Annotated[
        dict[str, Expected],
        Meta(description='by place: exactly these messages, in order, each as far as it is written here; or "none"; or count, '
                         "each, first, last, contains. At a node is what reaches it, at node#1 what leaves its first output"),
    ] = {}  # fmt: skip
    badge: Annotated[
        dict[str, Object | Literal["none"]], Meta(description="what stands below nodes at the end, by node")
    ] = {}
    dead: Annotated[
        list[Object] | Literal["none", "any"],
        Meta(description='dead letters: "node", "error" (a part of it), "topic", "payload"; none are expected without this'),
    ] = "none"  # fmt: skip
    until_s: (
        Annotated[
            Seconds, Meta(description="run so long; without it: until no node waits for a time any more")
        ]
        | None
    ) = None
    answers: Annotated[
        dict[str, list[Object]],
        Meta(
            description="what nodes that ask over a network answer, by node: properties of the message they give out"
        ),
    ] = {}
    files: Annotated[
        dict[str, str], Meta(description="what is in the files that nodes read, by name below the folder")
    ] = {}
    written: Annotated[
        dict[str, str | Object],
        Meta(description='what is in files at the end, by name; "none": there is no such file'),
    ] = {}
    env: Annotated[dict[str, str], Meta(description="variables")] = {}
    tolerance: Annotated[Seconds, Meta(description="how far numbers may be apart")] | None = None


class FlowTests(_Strict):
    """`flow.test/1`: test cases of a flow, in `NAME.test.json` beside `NAME.json`."""

    cases: list[Case]
    schema_: Annotated[str, Meta(description="for editors")] = msgspec.field(name="$schema", default="")
    flow: Annotated[str, Meta(description="the flow file, where it has another name")] = ""
    start: Annotated[datetime, Meta(tz=True, description="the time at which each case starts")] | None = None
    env: Annotated[dict[str, str], Meta(description="variables of all cases")] = {}
    messages: Annotated[dict[str, Object], Meta(description='messages for "like"')] = {}
    tolerance: Annotated[Seconds, Meta(description="how far numbers may be apart")] = 0.0


class Result(msgspec.Struct):
    """What came of a case. `problems`: what was not as expected, for people."""

    file: Path
    name: str
    problems: list[str]
    took_s: float = 0.0
    flow_s: float = 0.0


class CasesError(ValueError):
    """A file of cases cannot be used; the message says where and why."""


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a file of cases."""
    return msgspec.json.schema(FlowTests)


def load(path: Path) -> FlowTests:
    """A file of cases; raises CasesError."""
    try:
        tests = msgspec.json.decode(path.read_bytes(), type=FlowTests)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CasesError(f"{path}: {error}") from None
    names = [case.name for case in tests.cases]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise CasesError(f"{path}: two cases are called {double!r}")
    return tests


def flow_of(path: Path, tests: FlowTests) -> Flow:
    """The flow that a file of cases is about; raises CasesError."""
    flow = path.with_name(tests.flow or f"{path.name.removesuffix(SUFFIX)}.json")
    try:
        return Flow.load(flow)
    except FileNotFoundError:
        raise CasesError(f'{path}: there is no {flow}; name the flow file in "flow"') from None
    except FlowError as error:
        raise CasesError(f"{flow}: {error}") from None


def run_file(path: Path, only: str = "") -> Iterator[Result]:
    """Run the cases of a file whose names contain a text, one after the other; raises CasesError."""
    tests = load(path)
    flow = flow_of(path, tests)
    for case in tests.cases:
        if only.casefold() in case.name.casefold():
            yield run_case(flow, tests, case, path)


def run_case(flow: Flow, tests: FlowTests, case: Case, path: Path = Path()) -> Result:
    """Run one case in a lab of its own."""
    result, started = Result(path, case.name, []), time.perf_counter()
    start_s = tests.start.astimezone(UTC).timestamp() if tests.start else START_S
    try:
        with FlowLab(flow, env={**tests.env, **case.env}, answers=case.answers, start_s=start_s) as lab:
            for name, text in case.files.items():
                lab.files.replace(name, text.encode(), make_folders=True)
            _feed(lab, tests, case)
            result.flow_s = lab.now_s
            result.problems = list(_Judge(lab, tests, case).problems())
    except (LabError, MatchError, PathError, FlowError, OutsideError) as error:
        result.problems = [str(error)]
    result.took_s = time.perf_counter() - started
    return result


# -- what comes in ------------------------------------------------------------------------------------------------


def _feed(lab: FlowLab, tests: FlowTests, case: Case) -> None:
    coming = sorted((item for entry in case.in_ for item in _times(entry)), key=lambda item: item[0])
    for at_s, number, entry in coming:
        if case.until_s is not None and at_s > case.until_s:
            raise LabError(f'a message comes at {at_s:g} s, after "until_s": {case.until_s:g}')
        if at_s > lab.now_s:
            lab.advance(at_s - lab.now_s)
        if entry.msg is None and not entry.like:
            lab.press(entry.to)
        else:
            found = _message(tests, entry, number)
            props = {name: value for name, value in found.items() if name not in ("topic", "payload")}
            lab.send(entry.to, found.get("payload"), topic=str(found.get("topic", "")), **props)
    if case.until_s is not None:
        lab.advance(case.until_s - lab.now_s)
    else:
        lab.rest()


def _times(entry: Entry) -> Iterator[tuple[float, int, Entry]]:
    for number in range(entry.repeat):
        yield entry.at_s + number * entry.every_s, number, entry


def _message(tests: FlowTests, entry: Entry, number: int) -> Object:
    if entry.like and entry.like not in tests.messages:
        known = ", ".join(tests.messages) or "none"
        raise LabError(f'"like": {entry.like!r} is not in "messages"; there are: {known}')
    found: Object = merged(tests.messages.get(entry.like, {}), entry.msg or {})
    if not number or not entry.add:
        return found
    msg = Msg(str(found.get("topic", "")), found.get("payload"), props=found)
    for path, step in entry.add.items():
        value = get(msg, path)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise LabError(f'"add": {path!r} is {shown(value)} in the message, no number')
        msg = put(msg, path, value + step * number)
    return {**(msg.props or {}), "topic": msg.topic, "payload": msg.payload}


def merged(base: Any, change: Any) -> Any:
    """A message with what another one says otherwise.

    >>> merged({"payload": {"a": 1, "b": 2}}, {"payload": {"b": 3}})
    {'payload': {'a': 1, 'b': 3}}
    """
    if not isinstance(base, Mapping) or not isinstance(change, Mapping):
        return change
    return {**base, **{name: merged(base.get(name), value) for name, value in change.items()}}


# -- what is expected ---------------------------------------------------------------------------------------------


class _Judge:
    def __init__(self, lab: FlowLab, tests: FlowTests, case: Case) -> None:
        self._lab, self._case = lab, case
        self._tolerance = tests.tolerance if case.tolerance is None else case.tolerance

    def problems(self) -> Iterator[str]:
        for where, expected in self._case.out.items():
            seen = self._lab.reached(where)
            problems = (
                self._some(expected, seen) if isinstance(expected, Some) else self._exactly(expected, seen)
            )
            yield from (f"{where}: {problem}" for problem in problems)
        for node, wanted in self._case.badge.items():
            badge = self._lab.badge(node)
            if wanted == "none":
                yield from [f"{node}: badge: expected none, is {shown(badge)}"] if badge else []
            else:
                found = differences(wanted, badge, self._tolerance)
                yield from (f"{node}: badge: {problem}" for problem in found)
        for name, wanted_text in self._case.written.items():
            yield from (f"{name}: {problem}" for problem in self._written(name, wanted_text))
        yield from self._dead(self._case.dead)

    def _written(self, name: str, wanted: str | Object) -> list[str]:
        path = self._lab.files.path(name)
        if not path.is_file():
            return [] if wanted == "none" else ["there is no such file"]
        text = path.read_bytes().decode(errors="replace")
        if wanted == "none":
            return [f"expected no such file, it holds {shown(text)}"]
        return differences(wanted, text, self._tolerance)

    def _exactly(self, expected: list[Object] | Literal["none"], seen: list[Seen]) -> Iterator[str]:
        wanted = [] if expected == "none" else expected
        if len(wanted) != len(seen):
            yield f"expected {_messages(len(wanted))}, {'came' if seen else 'came none'}{_came(seen)}"
        for number, (one, other) in enumerate(zip(wanted, seen, strict=False), 1):
            yield from (f"{_which(number, other)}: {problem}" for problem in self._compare(one, other))

    def _some(self, expected: Some, seen: list[Seen]) -> Iterator[str]:
        if expected.count is not None and expected.count != len(seen):
            yield f"expected {_messages(expected.count)}, came {len(seen)}{_came(seen)}"
        if expected.each is not None:
            for number, item in enumerate(seen, 1):
                yield from (
                    f"{_which(number, item)}: {problem}" for problem in self._compare(expected.each, item)
                )
        for name, wanted, found in (("first", expected.first, seen[:1]), ("last", expected.last, seen[-1:])):
            if wanted is not None and not found:
                yield f"{name}: expected {shown(wanted)}, came none"
            elif wanted is not None:
                yield from (f"{name}: {problem}" for problem in self._compare(wanted, found[0]))
        yield from self._contained(expected.contains, seen)

    def _contained(self, wanted: list[Object], seen: list[Seen]) -> Iterator[str]:
        left = iter(seen)
        for number, one in enumerate(wanted, 1):
            if not any(not self._compare(one, other) for other in left):
                after = "" if number == 1 else f" after the {number - 1} before it"
                yield f"none is like {shown(one)}{after}{_came(seen)}"
                return

    def _compare(self, expected: Object, seen: Seen) -> list[str]:
        if "at_s" not in expected:
            return differences(expected, seen.as_object(), self._tolerance)
        rest = {name: value for name, value in expected.items() if name != "at_s"}
        when = differences(expected["at_s"], round(seen.at_s, 6), max(self._tolerance, TIME_TOLERANCE_S))
        return [f"at_s{problem.removeprefix('it')}" for problem in when] + self._compare(rest, seen)

    def _dead(self, expected: list[Object] | Literal["none", "any"]) -> Iterator[str]:
        if expected == "any":
            return
        wanted = [] if expected == "none" else expected
        letters = self._lab.dead
        if len(wanted) != len(letters):
            listed = "".join(f"\n    {letter.node}: {letter.error}" for letter in letters[:MOST_SHOWN])
            yield f"expected {_messages(len(wanted), 'dead letter')}, came {len(letters) or 'none'}{':' if listed else ''}{listed}"
        for number, (one, letter) in enumerate(zip(wanted, letters, strict=False), 1):
            found = {
                "node": letter.node,
                "error": letter.error,
                "at_s": letter.at_s,
                **letter.original.as_object(),
            }
            text = one.get("error")
            if isinstance(text, str) and text in letter.error:
                one = {**one, "error": letter.error}
            yield from (
                f"dead letter {number}: {problem}" for problem in differences(one, found, self._tolerance)
            )


def _messages(count: int, word: str = "message") -> str:
    return f"no {word}" if not count else f"{count} {word}{'' if count == 1 else 's'}"


def _which(number: int, seen: Seen) -> str:
    return f"message {number} at {seen.at_s:g} s"


def _came(seen: list[Seen]) -> str:
    """What came instead, each on a line."""
    lines = [f"\n    at {item.at_s:g} s: {shown(item.as_object(), 240)}" for item in seen[:MOST_SHOWN]]
    more = f"\n    and {len(seen) - MOST_SHOWN} more" if len(seen) > MOST_SHOWN else ""
    return ":" + "".join(lines) + more if seen else ""
