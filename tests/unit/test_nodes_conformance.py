"""What every installed node type must have, and that none is silently missing."""

from __future__ import annotations

import ast
import builtins
import inspect
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from voltflow.node import REGISTRY, NodeSpec, Sink, Source, Transform, load_installed_nodes

LEFT_OUT = load_installed_nodes()
SPECS = [s for s in REGISTRY.values() if s.cls.__module__.partition(".")[0] in {"voltflow", "edge", "cloud"}]
EXPECTED = {
    "mqtt in", "mqtt out", "mqtt latest", "mqtt-broker", "tls-config", "http in", "http request", "http response",
    "inject", "debug", "catch", "status", "complete", "link in", "link out", "link call", "dead letter", "subflow-status",
    "switch", "change", "range", "template", "rbe", "python", "delay", "trigger", "split", "join", "sort", "batch",
    "json", "csv", "yaml", "base64", "file", "file in", "window", "deadband", "resample",
    "validate", "cells", "sequence", "twin", "features", "onnx", "alert", "downlink", "threshold", "dtc",
    "mqtt heir", "timescale out", "kafka in", "kafka out", "influx out",
}  # fmt: skip
every_node = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.type)


def test_every_node_file_is_discovered() -> None:
    """River once skipped all of its transformers unseen: so the types are listed here, and files are counted."""
    assert LEFT_OUT == []
    assert {spec.type for spec in SPECS} == EXPECTED
    root = Path(__file__).parents[2]
    files = [
        file for part in ("voltflow", "edge", "cloud") for file in (root / part / "nodes").glob("*.py")
        if any(_is_node(statement) for statement in ast.parse(file.read_text()).body)
    ]  # fmt: skip
    assert len(files) == len(EXPECTED), "one node, one file"


def _is_node(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ClassDef) and any(
        ast.unparse(decorator).startswith("node(") for decorator in statement.decorator_list
    )


@every_node
def test_node_has_help_that_begins_with_a_sentence(spec: NodeSpec) -> None:
    assert spec.summary.endswith((".", ":"))
    assert 10 < len(spec.summary) < 120
    assert spec.category in {
        "",  # not in the palette
        "common",
        "network",
        "config",
        "battery",
        "storage",
        "cloud",
        "sequence",
        "function",
        "parser",
    }
    assert spec.color.startswith("#")
    assert len(spec.color) == 7


@every_node
def test_every_field_has_help_and_numbers_have_limits_or_unit(spec: NodeSpec) -> None:
    for field in spec.fields:
        assert len(field.help) > 4, f"{spec.type}.{field.name} needs help"
        assert not field.help.endswith("."), f"{spec.type}.{field.name}: help is a phrase"
        if field.type in (int, float) and field.choices is None:
            assert field.low is not None or field.high is not None or field.unit, (
                f"{spec.type}.{field.name}: no limits"
            )
        if field.reference is not None:
            assert field.reference in REGISTRY, f"{spec.type}.{field.name} refers to an unknown type"
        if not field.required and field.default not in ("", None) and field.reference is None:
            assert field.coerce(field.default) == field.default, (
                f"{spec.type}.{field.name}: its default is not allowed"
            )


def _configured(spec: NodeSpec) -> dict[str, Any]:
    by_type: dict[Any, Any] = {str: "x", int: 1, float: 1.0, bool: True}
    return {
        f.name: f.example or (f.choices or (by_type[f.type],))[0]
        for f in spec.fields
        if f.required or f.example is not None
    }


@every_node
def test_constructor_does_no_input_or_output(spec: NodeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flow is built to be checked, on machines that have neither the broker nor the files."""

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a constructor opened something")

    for owner, name in ((builtins, "open"), (socket, "socket"), (subprocess, "Popen"), (Path, "read_text")):
        monkeypatch.setattr(owner, name, forbidden)
    built = spec.build("n1", _configured(spec), {})
    assert built.id == "n1"


@every_node
def test_node_has_the_method_of_its_kind(spec: NodeSpec) -> None:
    if issubclass(spec.cls, Source):
        assert inspect.iscoroutinefunction(spec.cls.run)
        assert spec.cls.run is not Source.run
    elif issubclass(spec.cls, Sink):
        assert inspect.iscoroutinefunction(spec.cls.write)
        assert spec.cls.write is not Sink.write
    elif issubclass(spec.cls, Transform):
        assert not inspect.iscoroutinefunction(spec.cls.process)
        assert spec.cls.process is not Transform.process


@every_node
def test_node_file_is_short_and_says_what_it_does(spec: NodeSpec) -> None:
    source = Path(inspect.getfile(spec.cls)).read_text()
    assert source.startswith('"""')
    assert source.count("\n") <= 250


def test_general_nodes_need_only_what_every_part_shares() -> None:
    """A gateway has no database driver and no Kafka: importing the general nodes must not ask for them."""
    heavy = ("onnxruntime", "psycopg2", "kafka", "influxdb_client", "pandas", "sklearn", "mlflow", "rich")
    code = (
        "import sys; from voltflow.node import load_nodes; load_nodes('voltflow.nodes');"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
