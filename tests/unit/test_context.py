"""Context: values of nodes, tabs and flows, bounded, copied, and there again after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.flows import Do
from voltflow.engine.context import ContextError, Contexts
from voltflow.node import Context

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3),
)  # fmt: skip


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["node", "flow", "global"]), st.text("ab"), st.text("k", min_size=1)), JSON
    )
)
def test_values_come_back_after_a_restart(values: dict[tuple[str, str, str], object]) -> None:
    before, after = Contexts(), Contexts()
    for (kind, id, key), value in values.items():
        before.scope(kind, id).set(key, value)  # type: ignore[arg-type]
    after.restore(b"".join(before.copy()()))
    assert (after.values, after.size_bytes) == (before.values, before.size_bytes)
    for (kind, id, key), value in values.items():
        assert after.scope(kind, id).get(key) == value  # type: ignore[arg-type]


def test_a_copy_does_not_follow_later_changes() -> None:
    contexts, after = Contexts(), Contexts()
    memory = contexts.scope("node", "n")
    memory.set("count", 1)
    copy = contexts.copy()
    memory.set("count", 2)
    memory.set("more", 3)
    after.restore(b"".join(copy()))
    assert after.scope("node", "n").keys() == ["count"]
    assert after.scope("node", "n").get("count") == 1


def test_what_is_got_is_a_copy_and_what_is_deleted_is_gone() -> None:
    memory = Contexts().scope("global")
    memory.set("list", [1])
    memory.get("list").append(2)
    assert memory.get("list") == [1]
    memory.delete("list")
    memory.delete("list")
    assert (memory.get("list", "none"), memory.keys()) == ("none", [])


def test_size_is_bounded_over_all_scopes_and_the_old_value_stays() -> None:
    contexts = Contexts(limit_bytes=20)
    contexts.scope("node", "a").set("k", "12345678")  # 10 bytes of JSON and one of the key
    other = contexts.scope("node", "b")
    with pytest.raises(
        ContextError,
        match="node b context: 'k' of 9 bytes would make 21 bytes of all contexts, allowed are 20",
    ):
        other.set("k", "1234567")
    other.set("k", "123456")
    with pytest.raises(ContextError, match="delete what is not needed"):
        other.set("k", "12345678")
    assert (other.get("k"), contexts.size_bytes) == ("123456", 20)
    contexts.scope("node", "a").delete("k")
    assert contexts.size_bytes == 9


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, float("nan"), object()])
def test_what_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(ContextError, match="global context: 'k' cannot be kept as JSON"):
        Contexts().scope("global").set("k", value)


def test_scopes_of_nodes_that_are_gone_are_forgotten() -> None:
    contexts = Contexts()
    for kind, id in (("node", "old"), ("node", "n"), ("flow", "tab"), ("flow", "old"), ("global", "")):
        contexts.scope(kind, id).set("k", 1)  # type: ignore[arg-type]
    contexts.keep_only({"n"}, {"tab"})
    assert set(contexts.values) == {("node", "n"), ("flow", "tab"), ("global", "")}
    assert contexts.size_bytes == 6


def test_key_of_what_a_flow_is_in(tmp_path: Path) -> None:
    """`$parent.`: from a nested subflow instance by its outer one to the tab, and from there to the global context."""
    contexts = Contexts()
    node = Do.spec.build("n", {"z": "outer-inner"}, {})
    ctx = Context({}, {Contexts: contexts}, "gw", "rev", tmp_path, flows=("outer", "t"))
    flow = ctx.memory("flow", node)
    for level, prefix in enumerate(("", "$parent.", "$parent.$parent.", "$parent.$parent.$parent.")):
        flow.set(f"{prefix}level", level)
    scopes = (("flow", "outer-inner"), ("flow", "outer"), ("flow", "t"), ("global", ""))
    assert [contexts.scope(kind, id).get("level") for kind, id in scopes] == [0, 1, 2, 3]  # type: ignore[arg-type]
    assert [flow.get("level"), flow.get("$parent.level"), flow.get("$parent.$parent.$parent.level")] == [
        0,
        1,
        3,
    ]
    flow.delete("$parent.level")
    assert contexts.scope("flow", "outer").keys() == []
    ctx.memory("node", node).set("$parent.level", 1)
    assert ctx.memory("node", node).keys() == ["$parent.level"], "only a flow is in another one"


def test_nodes_of_one_tab_share_its_context(tmp_path: Path) -> None:
    contexts = Contexts()
    first, second, third = (
        Do.spec.build(id, {"z": tab}, {}) for id, tab in (("a", "t"), ("b", "t"), ("c", "u"))
    )
    for services in ({Contexts: contexts}, {}):
        ctx = Context({}, services, "gw", "rev", tmp_path)
        for kind in ("node", "flow", "global"):
            ctx.memory(kind, first).set("from", kind)  # type: ignore[arg-type]
        assert ctx.memory("node", second).keys() == []
        assert ctx.memory("flow", second).get("from") == "flow"
        assert ctx.memory("flow", third).keys() == []
        assert ctx.memory("global", third).get("from") == "global"
    assert contexts.scope("flow", "t").get("from") == "flow"
