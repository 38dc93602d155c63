"""The declaration of a node: fields with checked values, the registry, what the host gives a node."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltflow.message import Msg, encode_payload
from voltflow.node import (
    REGISTRY,
    ConfigError,
    ConfigNode,
    Context,
    Sink,
    Source,
    Transform,
    VariableMissing,
    config,
    load_installed_nodes,
    node,
)


@node("test fields", category="test")
class Fields(Transform):
    """One of each kind.

    More about it.
    """

    needed: str = config(help="a text")
    port: int = config(1883, help="a port", low=1, high=65535)
    ratio: float = config(0.5, help="a share", low=0, unit="%")
    on: bool = config(False, help="a switch")
    mode: str = config("a", help="a mode", choices=("a", "b"))
    rules: list[dict[str, Any]] = config([], help="rules", name="from")
    broker: str = config("", help="a broker", reference="mqtt-broker")

    # state
    count: int = 0


def build(env: dict[str, str] | None = None, **properties: Any) -> Fields:
    built = Fields.spec.build("f1", {"needed": "x", **properties}, env or {})
    assert isinstance(built, Fields)
    return built


def test_defaults_are_used_and_lists_are_not_shared() -> None:
    first, second = build(), build()
    assert (first.port, first.ratio, first.on, first.mode, first.broker) == (1883, 0.5, False, "a", "")
    assert first.rules == []
    first.rules.append({})
    assert second.rules == []
    assert (first.id, first.label, build(name="n").label) == ("f1", "test fields:f1", "n")


@pytest.mark.parametrize(
    ("given_", "attribute", "value"),
    [({"port": "8883"}, "port", 8883), ({"ratio": "1.5"}, "ratio", 1.5), ({"on": "true"}, "on", True),
     ({"ratio": 2}, "ratio", 2.0), ({"from": [{"t": "eq"}]}, "rules", [{"t": "eq"}]),
     ({"port": ""}, "port", 1883), ({"on": None}, "on", False), ({"ratio": ""}, "ratio", 0.5)],
)  # fmt: skip
def test_text_of_an_editor_becomes_the_field_type(given_: dict[str, Any], attribute: str, value: Any) -> None:
    assert getattr(build(**given_), attribute) == value


@pytest.mark.parametrize(
    ("given_", "error"),
    [({"port": 0}, 'property "port": 0 is out of range, allowed is 1 … 65535'),
     ({"ratio": -1}, 'property "ratio": -1.0 is out of range, allowed is ≥ 0 %'),
     ({"ratio": "nan"}, 'property "ratio": nan is out of range, allowed is ≥ 0 %'),
     ({"port": "x"}, 'property "port": Expected `int`, got `str`, but it is \'x\''),
     ({"port": 1.5}, 'property "port": Expected `int`, got `float`, but it is 1.5'),
     ({"mode": "c"}, "property \"mode\": 'c' is not one of 'a', 'b'"),
     ({"from": {}}, 'property "from": Expected `array`, got `object`, but it is {}'),
     ({"needed": 5}, 'property "needed": Expected `str`, got `int`, but it is 5')],
)  # fmt: skip
def test_wrong_value_is_refused_with_property_value_and_what_is_allowed(
    given_: dict[str, Any], error: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        build(**given_)
    assert str(raised.value) == error


def test_missing_property_is_named_with_its_help() -> None:
    with pytest.raises(ConfigError, match=r'^property "needed" is missing: a text$'):
        Fields.spec.build("f1", {}, {})


def test_variable_stands_for_a_whole_value_only() -> None:
    assert build({"PORT": "99"}, port="${PORT}").port == 99
    assert build({"PORT": "99"}, needed="a ${PORT}").needed == "a ${PORT}"
    with pytest.raises(VariableMissing, match=r'property "port": the environment has no PORT for \$\{PORT\}'):
        build(port="${PORT}")


def test_variable_is_checked_like_a_value() -> None:
    with pytest.raises(ConfigError, match="99999 is out of range"):
        build({"PORT": "99999"}, port="${PORT}")


@given(
    st.dictionaries(
        st.sampled_from([f.name for f in Fields.spec.fields]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            st.lists,
            max_leaves=3,
        ),
    )
)
def test_any_json_value_builds_or_is_a_config_error(properties: dict[str, Any]) -> None:
    try:
        built = Fields.spec.build("f1", properties, {})
    except ConfigError:
        return
    assert isinstance(built, Fields)
    assert 1 <= built.port <= 65535
    assert built.ratio >= 0
    assert not math.isnan(built.ratio)


def test_spec_says_ports_and_help() -> None:
    @node("test sink spec", category="test")
    class ASink(Sink):
        """A sink."""

    @node("test source spec", category="test", outputs=2)
    class ASource(Source):
        """A source."""

    @node("test config spec", category="test")
    class AConfig(ConfigNode):
        """A config node."""

    assert [(s.spec.inputs, s.spec.outputs) for s in (ASink, ASource, AConfig, Fields)] == [
        (1, 0), (0, 2), (0, 0), (1, 1),
    ]  # fmt: skip
    assert Fields.spec.summary == "One of each kind."
    assert [f.name for f in Fields.spec.fields] == ["needed", "port", "ratio", "on", "mode", "from", "broker"]


def test_node_without_a_docstring_is_refused() -> None:
    class Silent(Transform):
        pass

    Silent.__doc__ = ""
    with pytest.raises(TypeError, match="node silent: a docstring is its help"):
        node("silent", category="test")(Silent)


def test_installation_without_node_packages_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an upgrade in place the list of node types was empty and nobody said why."""
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: ())
    assert load_installed_nodes() == [
        'all of them: the installation names none ("voltflow.nodes"); install Voltflow again'
    ]


def test_context_names_what_is_not_there() -> None:
    ctx = Context({}, {}, "gw", "rev", Path())
    with pytest.raises(ConfigError, match="config node 'b1' is not there"):
        ctx.config_node("b1", ConfigNode)
    with pytest.raises(ConfigError, match="this program has no Path: the node belongs into another one"):
        ctx.service(Path)


def test_registry_knows_the_type() -> None:
    assert REGISTRY["test fields"] is Fields.spec


# -- messages -----------------------------------------------------------------------------------------------------


def test_derive_remembers_the_first_origin() -> None:
    first = Msg("t", b"1", received_ms=5, props={"a": 1})
    last = first.derive(payload=2).derive(topic="u")
    assert last.origin is first
    assert (last.topic, last.payload, last.received_ms, last.props) == ("u", 2, 5, {"a": 1})


class Wire:
    def wire(self) -> dict[str, int]:
        return {"a": 1}


@pytest.mark.parametrize(
    ("payload", "data"),
    [
        (b"\xff", b"\xff"),
        ("ä", "ä".encode()),
        ({"a": None}, b'{"a":null}'),
        (None, b"null"),
        (Wire(), b'{"a":1}'),
    ],
)
def test_payload_is_encoded_for_the_wire(payload: Any, data: bytes) -> None:
    assert encode_payload(payload) == data
