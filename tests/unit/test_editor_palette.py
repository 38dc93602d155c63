"""The palette: sets and html made of declarations, beside Node-RED's genuine ones."""

from __future__ import annotations

import gzip
import html.parser
import json
import re
from pathlib import Path
from typing import Any

import pytest

from edge.editor.forms import rows
from edge.editor.palette import ALWAYS, CORE, OWN, Palette, help_of
from edge.editor.static import Files
from voltflow.admin import editor_files, npm_files
from voltflow.flow.flow import JAVASCRIPT
from voltflow.message import Msg
from voltflow.node import REGISTRY, ConfigNode, NodeSpec, Sink, Transform, config, load_nodes, node

RESERVED = {"id", "type", "wires", "users", "valid", "changed", "dirty", "moved", "selected", "inputLabels",
            "outputLabels", "x", "y", "z", "d", "g", "l"}  # fmt: skip
"""Properties that the editor uses itself."""

RANGE = """<script type="text/html" data-template-name="range"><b>genuine</b></script>
<script>RED.nodes.registerType('range',{defaults:{name:{value:""}}});</script>"""
TWO = """<script>RED.nodes.registerType("file", {}); RED.nodes.registerType('file in', {});</script>"""


@pytest.fixture
def registry() -> dict[str, NodeSpec]:
    """Node types of these tests, which no other test sees."""
    before = dict(REGISTRY)

    @node("editor gauge", category="battery", color="#123456", icon="font-awesome/fa-bolt", label="gauge")
    class Gauge(Transform):
        """Measure what </script> and <b>others</b> pass, with `a < b`.

        A crash loses the last value.
        """

        limit: float = config(55.0, help="upper limit", unit="°C", low=-40, high=150)
        count_ms: int = config(help="every so many", unit="ms", low=1)
        retain: bool = config(True, help="keep it")
        mode: str = config("a", help="which way", choices=("a", 'b"<'))
        level: int = config(1, help="how much", choices=(0, 1, 2))
        value: str = config("payload", help="what", types=("msg", "num"), type_property="valueType")
        valueType: str = config("msg", help="of which type", choices=("msg", "num"))  # noqa: N815
        path: str = config("payload", help="where", types=("msg",))
        far: float = config(
            1.0, help="how far", unit="m", low=0, high=1e9, label="Distance", shown_if=("mode", ["a"])
        )
        meter: str = config(help="whose", reference="editor meter")
        rules: list[dict[str, Any]] = config([], help="what to do")
        names: list[str] = config(["payload"], help="of what")
        code: str = config("", help="the program", code="python")
        maybe: float | None = config(None, help="or not", advanced=True)
        outputs: int = config(1, help="how many", low=1, high=9)

        def process(self, msgs: list[Msg]) -> list[Msg]:
            return msgs

    @node("editor meter", category="config")
    class Meter(ConfigNode):
        """Keep what meters share."""

        user: str = config("", help="who", secret="text")
        password: str = config("", help="the word", secret=True)

    @node("range", category="function", icon="range.svg")
    class Range(Transform):
        """Map one range to another."""

        speed: float = config(1.0, help="how fast", low=0)

        def process(self, msgs: list[Msg]) -> list[Msg]:
            return msgs

    @node("file", category="storage")
    class File(Sink):
        """Write to a file."""

    types = ("editor gauge", "editor meter", "range", "file")
    found = {type: REGISTRY[type] for type in types}
    REGISTRY.clear()
    REGISTRY.update(before)
    return found


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """An installed editor, as small as it can be."""
    folder = tmp_path / "files"
    for path, text in {
        "nodes/core/function/16-range.html": RANGE,
        "nodes/core/storage/10-file.html": TWO,
        "nodes/core/network/32-udp.html": "<script>RED.nodes.registerType('udp in', {})</script>",
        "nodes/core/common/98-unknown.html": "<script>RED.nodes.registerType('unknown', {})</script>",
        "nodes/core/common/lib/debug/view.html": "<p>no set</p>",
        "nodes/locales/en-US/function/16-range.html": '<script data-help-name="range">Scales.</script>',
        "nodes/icons/range.svg": "<svg/>",
    }.items():
        stored = folder / f"{path}.gz"
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_bytes(gzip.compress(text.encode()))
    (folder / npm_files.STAMP).write_text(json.dumps(editor_files.bundle().stamp))
    return Files(folder)


@pytest.fixture
def palette(files: Files, registry: dict[str, NodeSpec]) -> Palette:
    return Palette(files, registry)


def calls_of(page: str, call: str) -> list[Any]:
    """What generated scripts call the page's own script with."""
    return [
        json.loads(found)
        for found in re.findall(rf"<script>Voltflow\.{call}\((.*?)\)</script>", page, re.DOTALL)
    ]


def call_of(page: str, call: str) -> Any:
    (found,) = calls_of(page, call)
    return found


class Elements(html.parser.HTMLParser):
    """The elements of a page, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]


def form_of(page: str, type: str) -> str:
    match = re.search(rf'data-template-name="{re.escape(type)}">(.*?)</script>', page, re.DOTALL)
    assert match
    return match[1]


# -- sets -------------------------------------------------------------------------------------------------------------


def test_sets_are_the_core_ones_that_run_here_then_ours(palette: Palette) -> None:
    assert list(palette.sets) == [
        "node-red/unknown", "node-red/range", "node-red/file", "voltflow/editor-gauge", "voltflow/editor-meter",
        "voltflow/not-run",
    ]  # fmt: skip


def test_set_of_two_types_of_which_one_runs_here_hides_the_other(palette: Palette) -> None:
    page = palette.html("node-red/file")
    assert page.startswith("<!-- --- [red-module:node-red/file] --- -->\n")
    assert TWO in page
    assert call_of(page, "hide") == ["file in"]


def test_facts_of_a_set_are_node_reds(palette: Palette) -> None:
    assert palette.sets["node-red/range"].facts(enabled=False) == {
        "id": "node-red/range", "name": "range", "types": ["range"], "enabled": False, "local": False, "user": False,
        "module": CORE, "version": editor_files.VERSION,
    }  # fmt: skip
    assert palette.sets["voltflow/editor-gauge"].facts()["module"] == OWN


def test_page_has_every_set_but_those_switched_off(palette: Palette) -> None:
    found = re.findall(r"<!-- --- \[red-module:(\S+)\] --- -->", palette.page({"node-red/file"}))
    assert found == [set_id for set_id in palette.sets if set_id != "node-red/file"]


def test_without_the_editor_only_our_sets_are_there(tmp_path: Path, registry: dict[str, NodeSpec]) -> None:
    files = Files(tmp_path / "nothing")
    assert not files.present
    assert all(item.module == OWN for item in Palette(files, registry).sets.values())


# -- generated forms --------------------------------------------------------------------------------------------------


def test_every_field_is_declared_so_that_the_editor_drops_none(
    palette: Palette, registry: dict[str, NodeSpec]
) -> None:
    spec = call_of(palette.html("voltflow/editor-gauge"), "register")
    assert [field["name"] for field in spec["fields"]] == [f.name for f in registry["editor gauge"].fields]


def test_palette_calls_a_type_by_its_label(palette: Palette) -> None:
    labels = [
        call_of(palette.html(set_id), "register")["label"]
        for set_id in ("voltflow/editor-gauge", "voltflow/editor-meter")
    ]
    assert labels == ["gauge", "editor meter"]


def test_kinds_of_fields(palette: Palette) -> None:
    spec = call_of(palette.html("voltflow/editor-gauge"), "register")
    assert {field["name"]: field["kind"] for field in spec["fields"]} == {
        "limit": "number", "count_ms": "number", "retain": "bool", "mode": "choice", "level": "choice", "value": "typed",
        "valueType": "type", "path": "property", "far": "number", "meter": "reference", "rules": "json", "names": "json", "code": "code",
        "maybe": "number", "outputs": "number",
    }  # fmt: skip


def test_a_number_tells_its_range_unit_and_default(palette: Palette) -> None:
    page = palette.html("voltflow/editor-gauge")
    fields = {field["name"]: field for field in call_of(page, "register")["fields"]}
    assert fields["limit"] == {
        "name": "limit", "kind": "number", "default": 55.0, "low": -40, "high": 150, "range": "-40 … 150 °C",
    }  # fmt: skip
    assert fields["count_ms"] == {
        "name": "count_ms", "kind": "number", "default": "", "required": True, "low": 1, "range": "≥ 1 ms",
        "integer": True,
    }  # fmt: skip
    form = form_of(page, "editor gauge")
    assert '<label for="node-input-count_ms">Count</label>' in form
    assert '<span class="voltflow-unit">°C</span>' in form
    assert "upper limit; -40 … 150 °C; default 55" in form
    assert "of what; default [&quot;payload&quot;]" in form
    assert "how far; ≥ 0 m; default 1" in form, "a limit that is none is left out"
    assert fields["far"]["high"] == 1e9


def test_a_field_may_have_a_label_and_be_shown_only_where_it_is_of_use(palette: Palette) -> None:
    page = palette.html("voltflow/editor-gauge")
    assert '<label for="node-input-far">Distance</label>' in form_of(page, "editor gauge")
    fields = {field["name"]: field for field in call_of(page, "register")["fields"]}
    assert fields["far"]["shownIf"] == {"name": "mode", "values": ["a"]}


def test_form_has_an_input_for_each_field_under_the_id_the_editor_looks_for(palette: Palette) -> None:
    ids = Elements(form_of(palette.html("voltflow/editor-gauge"), "editor gauge")).ids
    assert ids == [
        "node-input-name", "node-input-limit", "node-input-count_ms", "node-input-retain", "node-input-mode",
        "node-input-level", "node-input-value", "node-input-valueType", "node-input-path", "node-input-far", "node-input-meter",
        "node-input-rules-json", "node-input-names-json", "node-input-code", "node-input-code-editor", "node-input-outputs", "node-input-maybe",
    ]  # fmt: skip


def test_advanced_fields_are_folded_away(palette: Palette) -> None:
    form = form_of(palette.html("voltflow/editor-gauge"), "editor gauge")
    assert form.index("<details") < form.index('id="node-input-maybe"')
    assert form.index('id="node-input-outputs"') < form.index("<details")


def test_choices_are_escaped(palette: Palette) -> None:
    form = form_of(palette.html("voltflow/editor-gauge"), "editor gauge")
    assert '<option value="b&quot;&lt;">b&quot;&lt;</option>' in form


def test_secrets_are_credentials_of_a_config_node(palette: Palette) -> None:
    page = palette.html("voltflow/editor-meter")
    spec = call_of(page, "register")
    assert spec["category"] == "config"
    assert spec["fields"] == [
        {"name": "user", "kind": "secret", "default": "", "credential": "text"},
        {"name": "password", "kind": "secret", "default": "", "credential": "password"},
    ]
    form = form_of(page, "editor meter")
    assert '<input type="text" id="node-config-input-user">' in form
    assert '<input type="password" id="node-config-input-password">' in form


def test_typed_input_names_its_types_and_the_property_of_its_type(palette: Palette) -> None:
    fields = {
        field["name"]: field for field in call_of(palette.html("voltflow/editor-gauge"), "register")["fields"]
    }
    assert fields["value"]["types"] == ["msg", "num"]
    assert (fields["value"]["typeProperty"], fields["value"]["typeDefault"]) == ("valueType", "msg")


def test_help_cannot_end_its_script_and_shows_what_looks_like_tags(registry: dict[str, NodeSpec]) -> None:
    text = help_of(registry["editor gauge"])
    assert "</" not in text.replace("`", "")
    assert "&lt;b>others" in text
    assert "`a < b`" in text
    assert "- **Limit** (`limit`): upper limit; -40 … 150 °C; default 55" in text


def test_nothing_a_declaration_says_ends_a_script(palette: Palette) -> None:
    page = palette.html("voltflow/editor-gauge")
    assert page.count("</script>") == 3
    assert page.count("<script") == 3


# -- extended core types ----------------------------------------------------------------------------------------------


def test_core_type_is_the_genuine_html_then_its_help_then_our_fields(palette: Palette) -> None:
    page = palette.html("node-red/range")
    assert RANGE in page
    assert page.index(RANGE) < page.index("Scales.") < page.index("Voltflow.extend(")
    spec = call_of(page, "extend")
    assert [field["name"] for field in spec["fields"]] == ["speed"]
    assert 'id="node-input-speed"' in spec["rows"]["speed"]
    assert spec["help"] == "<p>Map one range to another.</p>"


# -- what is kept, and not run ----------------------------------------------------------------------------------------


def test_javascript_and_commands_are_known_to_the_editor(palette: Palette) -> None:
    assert set(palette.sets["voltflow/not-run"].types) == JAVASCRIPT
    page = palette.html("voltflow/not-run")
    assert {spec["type"] for spec in calls_of(page, "keep")} == JAVASCRIPT
    for type in JAVASCRIPT:
        assert {id for id in Elements(form_of(page, type)).ids if id.startswith("node-input-")} == {
            "node-input-name"
        }


# -- all node types there are -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def everything() -> dict[str, NodeSpec]:
    load_nodes("voltflow.nodes", "edge.nodes")
    return {type: spec for type, spec in REGISTRY.items() if not type.startswith("test ")}


def test_every_type_has_a_set_and_valid_json(everything: dict[str, NodeSpec], files: Files) -> None:
    palette = Palette(files, everything)
    for type, known in everything.items():
        item = next((item for item in palette.sets.values() if type in item.types), None)
        if not known.category:
            assert item is None, f"people have no use for {type}"
            continue
        assert item is not None, type
        page = palette.html(item.id)
        specs = {spec["type"]: spec for spec in calls_of(page, "extend" if item.path else "register")}
        assert [field["name"] for field in specs[type]["fields"]] == [f.name for f in known.fields], type


def test_python_forms_call_its_code_as_function_nodes_do(everything: dict[str, NodeSpec]) -> None:
    form = rows(everything["python"])
    assert [label for label in ("On message", "On start", "On stop") if f">{label}</label>" not in form] == []


def test_no_field_has_a_name_that_the_editor_uses(everything: dict[str, NodeSpec]) -> None:
    wrong = [
        f"{type}.{field.name}"
        for type, spec in everything.items()
        for field in spec.fields
        if field.name in RESERVED or len(field.name) == 1
    ]
    assert wrong == []


def test_typed_inputs_have_a_field_for_their_type(everything: dict[str, NodeSpec]) -> None:
    wrong = [
        f"{type}.{field.name}"
        for type, spec in everything.items()
        for field in spec.fields
        if field.type_property and field.type_property not in {other.name for other in spec.fields}
    ]
    assert wrong == []


def test_fields_are_shown_with_values_that_there_are(everything: dict[str, NodeSpec]) -> None:
    for type, spec in everything.items():
        fields = {field.name: field for field in spec.fields}
        for field in spec.fields:
            if field.shown_if:
                name, values = field.shown_if
                assert set(values) < set(fields[name].choices or ()), f"{type}.{field.name}"


def test_sets_that_are_always_there_run_nothing(everything: dict[str, NodeSpec]) -> None:
    assert not ALWAYS & set(everything)
