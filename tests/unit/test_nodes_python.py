"""The `python` node: what the code gets and may answer, what it cannot harm, how one that does not return is ended."""

from __future__ import annotations

import asyncio
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.flows import raw, running, until
from voltflow.engine.context import Contexts
from voltflow.engine.events import Events
from voltflow.engine.turn import FailedMsg, isolate
from voltflow.flow.properties import as_object
from voltflow.message import Msg, message_id
from voltflow.node import ConfigError, Context, load_nodes
from voltflow.nodelib import bounded
from voltflow.nodelib.python_code import Message, copied
from voltflow.nodelib.time_limit import TimeLimit
from voltflow.nodes.python_node import STRIKES, Python

load_nodes("voltflow.nodes")


@pytest.fixture(autouse=True)
def _stop_benches() -> Iterator[None]:
    """The signal goes back to the test runner."""
    yield
    while started:
        started[-1].stop()
    assert TimeLimit._users == 0


started: list[Bench] = []


class Bench:
    """A started node; `feed` gives what it gives out, by output, and keeps what it fails on."""

    def __init__(self, func: str, *, env: dict[str, str] | None = None, **properties: Any) -> None:
        node = Python.spec.build("p1", {"z": "tab1", "name": "mine", "func": func, **properties}, {})
        assert isinstance(node, Python)
        self.node, self.events, self.contexts = node, Events(), Contexts()
        self.failed: list[FailedMsg] = []
        self.told: list[Any] = []
        self.ctx = Context(
            {}, {Contexts: self.contexts}, "gw", "rev", Path(), events=self.events, env=env or {}
        )
        asyncio.run(node.start(self.ctx))
        started.append(self)

    def feed(self, *msgs: Msg) -> list[list[Msg]]:
        def on_error(msg: Msg, error: Exception) -> None:
            self.failed.append(FailedMsg(msg, str(error)))

        with self.events.listening(lambda topic, data: self.told.append((topic, dict(data)))):
            return list(isolate(self.node.process, list(msgs), self.node.outputs, on_error))

    def payloads(self, *payloads: Any) -> list[list[Any]]:
        return [[msg.payload for msg in port] for port in self.feed(*(Msg("t", item) for item in payloads))]

    def errors(self) -> list[str]:
        return [item.error for item in self.failed]

    def stop(self) -> None:
        if self in started:
            started.remove(self)
        asyncio.run(self.node.stop())


# -- messages in and out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("func", "outputs", "ports"),
    [
        pytest.param("return msg", 1, [[1]], id="the message"),
        pytest.param("", 1, [[]], id="nothing at all"),
        pytest.param("return None", 2, [[], []], id="None"),
        pytest.param("msg.payload += 1\nreturn msg", 1, [[2]], id="changed"),
        pytest.param("return {'payload': 5}", 1, [[5]], id="a dict"),
        pytest.param("return Message(payload=5)", 1, [[5]], id="a new message"),
        pytest.param("return [msg, None]", 2, [[1], []], id="one output"),
        pytest.param("return [None, msg]", 2, [[], [1]], id="the other"),
        pytest.param("return msg, {'payload': 2}", 2, [[1], [2]], id="a tuple"),
        pytest.param("return [[msg, {'payload': 2}, None], {'payload': 3}]", 2, [[1, 2], [3]], id="lists of lists"),
        pytest.param("return [[msg, {'payload': 2}]]", 1, [[1, 2]], id="several for one output"),
        pytest.param("return [msg]", 2, [[1], []], id="fewer than outputs"),
        pytest.param("return [msg, None, None]", 1, [[1]], id="nothing for outputs it has not"),
        pytest.param("node.send({'payload': 0})\nreturn msg", 1, [[0, 1]], id="sent before"),
        pytest.param("node.send([None, [msg, msg]])", 2, [[], [1, 1]], id="sent by output"),
    ],
)  # fmt: skip
def test_answers_are_taken_as_in_a_function_node(func: str, outputs: int, ports: list[list[Any]]) -> None:
    bench = Bench(func, outputs=outputs)
    assert bench.payloads(1) == ports
    assert bench.errors() == []


@pytest.mark.parametrize(
    ("func", "error"),
    [
        ("return 'text'", "str is no message; expected are a message (msg, or a dict), a list of them for each output, or None"),
        ("return [[[msg]]]", "list is no message; expected are "),
        ("return [None, msg]", "a message for output 2, but the node has 1"),
        ("x = 1\nreturn x / 0", "line 2 (return x / 0): ZeroDivisionError: division by zero"),
        ("return msg.none", "line 1 (return msg.none): AttributeError: the message has no property 'none'"),
        ("return msg['none']", "line 1 (return msg['none']): KeyError: 'none'"),
        ("def f():\n    raise ValueError\n\nf()", "line 2 (raise ValueError): ValueError"),
        ("import json\njson.loads('{')", "line 2 (json.loads('{')): JSONDecodeError: "),
        ("exit()", "line 1 (exit()): SystemExit"),
        ("node.send(5)", "line 1 (node.send(5)): int is no message; expected are "),
        ("f = lambda: f()\nf()", "line 1 (f = lambda: f()): RecursionError: maximum recursion depth exceeded"),
        ("a = []\na.append(a)\nmsg.payload = a\nreturn msg", "RecursionError: maximum recursion depth exceeded"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_named_with_its_line(func: str, error: str) -> None:
    bench = Bench(func)
    assert bench.payloads(1) == [[]]
    assert len(bench.errors()) == 1
    assert bench.errors()[0].startswith(error)


@pytest.mark.parametrize(
    ("properties", "error"),
    [
        ({"func": "x = 1\nif x\n  pass"}, "property \"func\": line 2 (if x): expected ':'"),
        ({"func": "yield msg"}, "property \"func\": 'yield' is not possible here; return a list of messages"),
        ({"func": "x = 1\nawait x"}, "property \"func\": line 2 (await x): 'await' outside async function"),
        ({"initialize": "return 1"}, "property \"initialize\": line 1 (return 1): 'return' outside function"),
        ({"finalize": "("}, "property \"finalize\": line 1 ((): '(' was never closed"),
        ({"timeout": "11"}, 'property "timeout": 11.0 is out of range, allowed is 0.01 … 10 s'),
    ],
)  # fmt: skip
def test_what_is_no_python_is_named_when_the_flow_is_checked(properties: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(error)}"):
        Python.spec.build("p", properties, {})


def test_message_has_all_that_it_came_with() -> None:
    bench = Bench(
        "msg.seen = [msg.topic, msg._msgid, msg.unit, sorted(msg), msg.get('x', 7)]\ndel msg.unit\nreturn msg"
    )
    msg = Msg("t", 1, props={"unit": "V"})
    [[made]] = bench.feed(msg)
    assert as_object(made) == {
        "_msgid": message_id(msg), "topic": "t", "payload": 1,
        "seen": ["t", message_id(msg), "V", ["_msgid", "payload", "topic", "unit"], 7],
    }  # fmt: skip
    assert made.origin is msg


def test_untouched_message_is_the_same() -> None:
    msg = Msg("t", object())
    assert Bench("return msg").feed(msg) == [[msg]]


def test_original_is_never_changed() -> None:
    bench = Bench(
        "msg.payload['a'].append(1)\nmsg.payload['b']['c'] = 2\nmsg.parts['id'] = 'x'\nmsg.topic = 'u'\nreturn msg"
    )
    msg = Msg("t", {"a": [0], "b": {}}, props={"parts": {"id": "p"}})
    [[made]] = bench.feed(msg)
    assert (made.topic, made.payload, made.props) == (
        "u",
        {"a": [0, 1], "b": {"c": 2}},
        {"parts": {"id": "x"}},
    )
    assert (msg.topic, msg.payload, msg.props) == ("t", {"a": [0], "b": {}}, {"parts": {"id": "p"}})


def test_what_was_given_out_is_not_changed_by_what_the_code_does_later() -> None:
    """A message may still wait at a sink while the code adds to the list it holds on to."""
    bench = Bench("seen.append(msg.payload)\nmsg.payload = seen\nreturn msg", initialize="seen = []")
    assert bench.payloads(1, 2, 3) == [[[1], [1, 2], [1, 2, 3]]]


class Reading(msgspec.Struct):
    """Stands for a payload of the gateway's own."""

    soc_pct: float


def test_payload_of_the_gateways_own_stays_what_it_is_where_it_is_only_looked_at() -> None:
    msg = Msg("t", Reading(71.5))
    [[made]] = Bench("return msg if msg.payload['soc_pct'] > 70 else None").feed(msg)
    assert made.payload is msg.payload
    [[made]] = Bench("msg.payload['soc_pct'] += 1\nreturn msg").feed(msg)
    assert (made.payload, msg.payload) == ({"soc_pct": 72.5}, Reading(71.5))


@settings(max_examples=20)
@given(st.recursive(st.none() | st.integers() | st.text() | st.binary(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10))  # fmt: skip
def test_copy_is_equal_and_shares_nothing_that_can_be_changed(value: Any) -> None:
    copy = copied(value)
    assert copy == value
    assert not _mutable(copy) & _mutable(value)


def _mutable(value: Any) -> set[int]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {id(value) for _ in (1,) if isinstance(value, dict | list)}.union(*map(_mutable, inner))


def test_message_is_a_mapping_like_any_other() -> None:
    msg = Message(Msg("t", {"a": 1}, props={"u": 2}))
    msg.update(x=1)
    del msg["u"]
    assert (msg.pop("x"), "u" in msg, len(msg), list(msg)) == (1, False, 3, ["_msgid", "topic", "payload"])
    with pytest.raises(AttributeError, match=r"^the message has no property 'u'$"):
        del msg.u
    with pytest.raises(KeyError, match="u"):
        del msg["u"]
    assert repr(Message(topic="t")) == "Message({'topic': 't'})"


# -- batches ------------------------------------------------------------------------------------------------------


def test_code_is_called_once_for_each_message_also_when_some_fail() -> None:
    """A batch that is tried again in parts would count its good messages twice."""
    func = "context.set('n', context.get('n', 0) + 1)\nif msg.payload % 3 == 0:\n    raise ValueError(msg.payload)\nmsg.n = context.get('n')\nreturn msg"
    batch, single = Bench(func), Bench(func)
    msgs = [Msg("t", number) for number in range(10)]
    found = [(msg.payload, (msg.props or {})["n"]) for msg in batch.feed(*msgs)[0]]
    assert found == [(number, number + 1) for number in range(10) if number % 3]
    for msg in msgs:
        port = single.feed(msg)[0]
        assert [(m.payload, (m.props or {})["n"]) for m in port] == [
            item for item in found if item[0] == msg.payload
        ]
    assert [item.msg.payload for item in batch.failed] == [0, 3, 6, 9]
    assert single.failed == batch.failed


def test_same_message_twice_in_a_batch_is_worked_on_twice() -> None:
    bench = Bench(
        "global n\nn += 1\nif n == 1:\n    raise ValueError\nmsg.payload = n\nreturn msg", initialize="n = 0"
    )
    msg = Msg("t", 0)
    assert [item.payload for item in bench.feed(msg, msg)[0]] == [2]
    assert [item.msg for item in bench.failed] == [msg]


def test_what_was_sent_before_a_failure_is_sent() -> None:
    bench = Bench("node.send(msg)\nraise ValueError('late')")
    assert bench.payloads(1, 2) == [[1, 2]]
    assert len(bench.failed) == 2


# -- what the code has --------------------------------------------------------------------------------------------


def test_names_of_initialize_are_known_and_finalize_runs_at_the_stop() -> None:
    bench = Bench(
        "global count\ncount += 1\nmsg.payload = double(math.floor(msg.payload)) + count\nreturn msg",
        initialize="import math\ncount = 0\ndef double(x):\n    return 2 * x",
        finalize="global_.set('count', count)",
    )
    assert bench.payloads(1.5, 1.5) == [[3, 4]]
    bench.stop()
    assert bench.contexts.scope("global").get("count") == 2


def test_contexts_and_variables() -> None:
    bench = Bench(
        "context.set('a', 1)\nflow.set('b', 2)\nglobal_.set('c', 3)\nmsg.payload = env.get('SITE') + env.get('NONE', '-')\nreturn msg",
        env={"SITE": "depot"},
    )
    assert bench.payloads(0) == [["depot-"]]
    scopes = [
        bench.contexts.scope("node", "p1"),
        bench.contexts.scope("flow", "tab1"),
        bench.contexts.scope("global"),
    ]
    assert [scope.get(key) for scope, key in zip(scopes, "abc", strict=True)] == [1, 2, 3]


def test_badge_is_shown() -> None:
    bench = Bench("node.status(msg.payload)")
    seen: list[Any] = []
    bench.node.on_badge = lambda node: seen.append(node.badge)
    bench.payloads({"fill": "red", "shape": "dot", "text": 5, "more": 1}, "warm", None)
    assert seen == [{"fill": "red", "shape": "dot", "text": "5"}, {"text": "warm"}, {}]


def test_warn_and_error_are_shown_and_an_error_with_a_message_fails_it() -> None:
    bench = Bench("node.warn('w')\nnode.error({'a': 1})\nmsg.tried = 1\nnode.error('bad', msg)\nnode.done()")
    bench.payloads(5)
    said = [
        (topic, data["level"], data["format"], data["msg"], data["type"], data["id"])
        for topic, data in bench.told
    ]
    assert said == [
        ("debug", 30, "string[1]", "w", "python", "p1"), ("debug", 20, "Object", '{"a":1}', "python", "p1"),
    ]  # fmt: skip
    assert [(item.msg.payload, item.msg.props, item.error) for item in bench.failed] == [
        (5, {"tried": 1}, "bad")
    ]


def test_nothing_can_be_sent_outside_of_a_message() -> None:
    with pytest.raises(
        ConfigError, match=r'^property "initialize": line 1 \(node.send\(1\)\): nothing can be sent here'
    ):
        Bench("", initialize="node.send(1)")


def test_initialize_that_fails_keeps_the_node_from_starting() -> None:
    error = r'^property "initialize": line 2 \(import nothing_of_this_name\): ModuleNotFoundError: '
    with pytest.raises(ConfigError, match=error):
        Bench("", initialize="x = 1\nimport nothing_of_this_name")
    with pytest.raises(
        ConfigError, match=r'^property "initialize": took longer than 0.05 s and was ended at line 1 '
    ):
        Bench("", initialize="while True: pass", timeout=0.05)


# -- the time limit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "func",
    [
        pytest.param("while True: pass", id="a loop"),
        pytest.param("while True:\n    try:\n        sum(range(100))\n    except:\n        pass", id="that catches everything"),
        pytest.param("while True:\n    try:\n        sum(range(100))\n    except (ValueError, BaseException):\n        pass",
                     id="that catches everything by name"),
        pytest.param("import time\ntime.sleep(100)", id="a wait"),
        pytest.param("import threading\nthreading.Lock().acquire() and threading.Event().wait()", id="a lock"),
        pytest.param("import itertools\nall(x >= 0 for x in itertools.count())", id="a generator"),
        pytest.param("def f():\n    while True:\n        g()\ndef g(): pass\nf()", id="calls"),
    ],
)  # fmt: skip
def test_code_that_does_not_return_is_ended(func: str) -> None:
    bench = Bench(func, timeout=0.05)
    began = time.monotonic()
    assert bench.payloads(1) == [[]]
    assert time.monotonic() - began < 10
    assert bench.errors()[0].startswith("took longer than 0.05 s and was ended at line ")
    assert bench.node.status() == {"ended": 1, "strikes": 1}


def test_messages_beside_one_that_is_ended_go_on() -> None:
    bench = Bench("while msg.payload == 2: pass\nreturn msg", timeout=0.05)
    assert bench.payloads(1, 2, 3) == [[1, 3]]
    assert [item.msg.payload for item in bench.failed] == [2]


def test_code_that_waits_for_a_moment_longer_is_let_be() -> None:
    """On a machine that is busy with other things innocent code does, too."""
    assert Bench("import time\ntime.sleep(0.2)\nreturn msg", timeout=0.1).payloads(1) == [[1]]


def test_limit_is_for_a_message_and_not_for_a_batch() -> None:
    bench = Bench("import time\ntime.sleep(0.02)\nreturn msg", timeout=0.1)
    assert bench.payloads(*range(12)) == [list(range(12))]


def test_node_rests_after_three_in_a_row_and_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench("while msg.payload: pass\nreturn msg", timeout=0.02)
    assert bench.payloads(1, 1, 0, 1, 1, 1, 0, 0) == [[0]]
    assert bench.node.status() == {"ended": 5, "strikes": STRIKES}
    assert bench.node.badge["text"] == "takes too long, rests"
    assert bench.errors()[-1] == "rests, because it took longer than 0.02 s 3 times in a row"
    bench.node._rests_until_s = time.monotonic()
    assert bench.payloads(0, 1) == [[0]]
    assert (bench.node.status(), bench.node.badge) == ({"ended": 6, "strikes": 1}, {})


def test_timer_and_handler_of_others_go_on() -> None:
    """Also that of the test runner, which ends a test that hangs by the same signal."""
    bounded._LIMIT.rest()  # an expression of a moment ago may still have the signal
    handled: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: handled.append(number))
    others = signal.setitimer(signal.ITIMER_REAL, 60)
    try:
        bench = Bench("while True: pass", timeout=0.05)
        bench.payloads(1)
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] < 60
        signal.raise_signal(signal.SIGALRM)
        assert handled == [signal.SIGALRM]
        bench.stop()
        signal.raise_signal(signal.SIGALRM)
    finally:
        signal.setitimer(signal.ITIMER_REAL, *others)
        signal.signal(signal.SIGALRM, before)
    assert handled == [signal.SIGALRM] * 2


def test_other_threads_are_told_that_the_limit_does_not_hold(caplog: pytest.LogCaptureFixture) -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(Bench("return msg").payloads(1)))
    thread.start()
    thread.join()
    assert found == [[[1]]]
    assert "does not run in the main thread" in caplog.text


# -- in a flow ----------------------------------------------------------------------------------------------------


def test_python_node_in_a_running_flow() -> None:
    func = "if msg.payload < 0:\n    raise ValueError('negative')\nif msg.payload > 9:\n    while True: pass\nreturn [msg, None] if msg.payload % 2 else [None, msg]"

    async def scenario() -> None:
        nodes = (
            raw("s", "source", ["p"]),
            {"id": "p", "type": "python", "func": func, "outputs": "2", "timeout": "0.05", "wires": [["odd"], ["even"]]},
            raw("odd", "sink"), raw("even", "sink"), {"id": "c", "type": "catch", "wires": [["e"]]}, raw("e", "sink"),
        )  # fmt: skip
        async with running(*nodes) as lab:
            await lab.feed("s", 1, 2, -1, 3, 10, 4)
            assert (lab["odd"].payloads(), lab["even"].payloads()) == ([1, 3], [2, 4])
            assert lab["e"].payloads() == [-1, 10]
            errors = [msg.props["error"]["message"] for msg in lab["e"].safe()]
            assert errors[0] == "line 2 (raise ValueError('negative')): ValueError: negative"
            assert errors[1].startswith("took longer than 0.05 s and was ended at line 4 ")
            await until(lambda: not lab.engine.transactions, "everything acknowledged")

    asyncio.run(scenario())


def test_who_deploys_it_needs_the_right_to() -> None:
    assert Python.needs_permission == "python"
