"""The `template` node: Mustache and plain, as text, JSON and YAML."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transforms import Bench, batch_is_one_by_one, msg, refused
from voltflow.flow.properties import UNDEFINED
from voltflow.message import Msg
from voltflow.nodelib.mustache import parse, render


def filled(template: str, payload: Any, **options: Any) -> Any:
    [made] = Bench("template", template=template, **options).payloads(
        msg(payload, "t", list=[{"n": 1}, {"n": 2}])
    )
    return made


@pytest.mark.parametrize(
    ("template", "payload", "expected"),
    [
        ("payload={{payload}}", "foo", "payload=foo"),
        ("{{payload.a.b}}|{{topic}}", {"a": {"b": 1.0}}, "1|t"),
        ("{{payload}}", True, "true"),
        ("{{payload}}", None, ""),
        ("{{payload.none}}{{none}}{{none.x}}", {}, ""),
        ("{{payload}}", {"a": 1}, "[object Object]"),
        ("{{payload}}", [1, "a"], "1,a"),
        ("{{payload.1.x}} of {{payload.length}}", [0, {"x": 5}], "5 of 2"),
        ("{{payload.length}}", "four", "4"),
        ("{{payload}}", "<a href='/x'>`&=\"", "&lt;a href&#x3D;&#39;&#x2F;x&#39;&gt;&#x60;&amp;&#x3D;&quot;"),
        ("{{{payload}}}{{&payload}}", "<&>", "<&><&>"),
        ("{{#payload}}[{{.}}]{{/payload}}", [1, 2], "[1][2]"),
        ("{{#payload}}yes{{/payload}}{{^payload}}no{{/payload}}", 0, "no"),
        ("{{#payload}}yes{{/payload}}{{^payload}}no{{/payload}}", {}, "yes"),
        ("{{#payload}}yes{{/payload}}{{^payload}}no{{/payload}}", [], "no"),
        ("{{#list}}{{n}}{{topic}},{{/list}}", None, "1t,2t,"),
        ("{{#payload}}{{a}}{{/payload}}", {"a": "in"}, "in"),
        ("{{! a comment }}x{{=<% %>=}}<% payload %>{{payload}}", 1, "x1{{payload}}"),
        ("{{> etc}}x", 1, "x"),
        ("line\n{{#payload}}\nin\n{{/payload}}\nend", True, "line\nin\nend"),
    ],
)
def test_mustache(template: str, payload: Any, expected: str) -> None:
    assert filled(template, payload) == expected


def test_partials_read_no_files() -> None:
    """The library would look for `setup.mustache` in the working directory."""
    assert filled("{{> setup}}{{> ../setup.cfg}}", 1) == ""


def test_contexts_and_variables() -> None:
    bench = Bench(
        "template",
        template="{{flow.limits.P1}} {{flow[memory].name}} {{global.site}}{{flow.none}} {{env.HOME_CITY}}",
        flow={"limits": {"P1": 5}, "name": "<f>"},
        env={"HOME_CITY": "Graz"},
    )
    bench.everywhere.set("site", "depot")
    assert bench.payloads(msg(1)) == ["5 &lt;f&gt; depot Graz"]


def test_message_comes_before_context() -> None:
    bench = Bench("template", template="{{flow.a}}", flow={"a": "context"})
    assert bench.payloads(msg(1, flow={"a": "message"})) == ["message"]


def test_plain_template_stays_as_it_is() -> None:
    assert filled("{{payload}} <b>", 1, syntax="plain") == "{{payload}} <b>"


def test_template_of_the_message_is_taken_where_the_node_has_none() -> None:
    assert Bench("template", template="").payloads(msg(1, template="is {{payload}}")) == ["is 1"]
    assert Bench("template", template="own").payloads(msg(1, template="is {{payload}}")) == ["own"]
    assert Bench("template", template="").payloads(msg(1)) == [""]


def test_another_property_is_set() -> None:
    before = msg({"a": 1})
    [made] = Bench("template", template="{{payload.a}}", field="payload.text")(before)
    assert (made.payload, before.payload) == ({"a": 1, "text": "1"}, {"a": 1})
    [made] = Bench("template", template="ev/{{payload.a}}", field="topic")(before)
    assert made.topic == "ev/1"


def test_context_is_set_and_the_message_goes_on() -> None:
    bench = Bench("template", template="{{payload}}", field="seen[msg.topic]", fieldType="flow")
    before = msg(5, "P1")
    assert bench(before) == [before]
    assert bench.flow.get("seen") == {"P1": "5"}


@pytest.mark.parametrize(
    ("output", "template", "expected"),
    [
        ("json", '{"a": {{payload}}}', {"a": 12}),
        ("json", "[1, 2.5, null]", [1, 2.5, None]),
        ("yaml", "a: {{payload}}\nb: [x, no]", {"a": 12, "b": ["x", "no"]}),
        ("str", "{{payload}}", "12"),
    ],
)
def test_text_may_be_read(output: str, template: str, expected: Any) -> None:
    assert filled(template, 12, output=output) == expected


@given(st.text(st.characters(exclude_characters='"', min_codepoint=8, exclude_categories=["Cs"])))
def test_text_in_a_json_template_stays_the_same(text: str) -> None:
    """But for control characters that Node-RED does not write either."""
    if not any(ord(letter) < 32 and letter not in "\b\t\n\f\r" for letter in text):
        assert filled('{"a": "{{{payload}}}"}', text, output="json") == {"a": text}


def test_text_that_is_not_json_fails() -> None:
    with pytest.raises(
        ValueError, match=r"^what the template gives is not JSON: Extra data: line 1 column 4 .*: '12 V'$"
    ):
        filled("{{payload}} V", 12, output="json")
    with pytest.raises(ValueError, match=r"^what the template gives is not YAML: "):
        filled("a: b: c", 12, output="yaml")


def test_wrong_properties_are_named() -> None:
    assert refused("template", template="{{#a}}").startswith(
        'property "template": the template cannot be read: '
    )
    assert refused("template", template="{{#a}}{{/b}}").startswith(
        'property "template": the template cannot be read: '
    )
    assert refused("template", field="a..b").startswith('property "field": ')
    assert "property \"syntax\": 'jinja' is not one of" in refused("template", syntax="jinja")


def test_template_of_a_message_that_cannot_be_read_fails_it_alone() -> None:
    msgs = [msg(1, template="{{payload}}"), msg(1, template="{{#x}}"), msg(2, template="{{payload}}")]
    found = batch_is_one_by_one("template", msgs, template="")
    assert [made["payload"] for made in found["ports"][0]] == ["1", "2"]
    assert found["errors"][0][1].startswith("TemplateError: the template cannot be read: ")


MESSAGES = st.builds(
    msg, st.sampled_from([1, "x", "y: z: w", None, {"a": 1}, [1]]), st.sampled_from(["a", "b"])
)


@given(
    st.lists(MESSAGES, max_size=6), st.sampled_from(["msg", "flow"]), st.sampled_from(["str", "json", "yaml"])
)
def test_batch_is_one_by_one(msgs: list[Msg], field_type: str, output: str) -> None:
    properties = dict(
        template="{{flow.field}}{{{payload}}}", field="field", fieldType=field_type, output=output
    )
    batch_is_one_by_one("template", msgs, flow={"field": ""}, **properties)


@given(st.text(st.sampled_from("{}#/^&!=. ab\n>"), max_size=24))
def test_any_template_is_rendered_or_refused(template: str) -> None:
    try:
        parsed = parse(template)
    except ValueError:
        return
    render(parsed, lambda name: UNDEFINED, {"a": {"b": [1]}, "b": "x"})
