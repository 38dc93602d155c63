"""The `csv` node, and how CSV is read and written."""

from __future__ import annotations

import asyncio
import csv as standard_csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.flows import raw, running, until
from tests.transforms import Bench, batch_is_one_by_one, build, msg, refused
from voltflow.message import Msg, message_id
from voltflow.node import Holder
from voltflow.nodelib.csv_text import CsvError, after_lines, quoted, rows


def reader(**properties: Any) -> Bench:
    return Bench("csv", **properties)


def objects(text: str | bytes, **properties: Any) -> list[Any]:
    return reader(**properties).payloads(msg(text))


def written(payload: Any, **properties: Any) -> str:
    [made] = Bench("csv", ret="\\n", **properties).payloads(msg(payload))
    assert isinstance(made, str)
    return made


# -- text to objects ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "properties", "expected"),
    [
        ("1,2,3\n4,5,6", {}, [{"col1": 1, "col2": 2, "col3": 3}, {"col1": 4, "col2": 5, "col3": 6}]),
        ("1,2,3", dict(temp="a,b,c"), [{"a": 1, "b": 2, "c": 3}]),
        ("1,2,3,4", dict(temp="a,,c"), [{"a": 1, "c": 3}]),
        ("1,2,3", dict(temp='"a, b",c'), [{"a, b": 1, "c": 2}]),
        ("a,b\n1,2\n3", dict(hdrin=True), [{"a": 1, "b": 2}, {"a": 3}]),
        ('"a b";c\r\n1;2\r\n', dict(hdrin=True, sep=";"), [{"a b": 1, "c": 2}]),
        ("a\tb\n1\t2", dict(hdrin=True, sep="\\t"), [{"a": 1, "b": 2}]),
        ("note\r\nmore\r\na,b\r\n1,2", dict(hdrin=True, skip="2"), [{"a": 1, "b": 2}]),
        ("note\n1,2", dict(skip=1), [{"col1": 1, "col2": 2}]),
        ("note", dict(skip=1), []),
        ('1,"x, ""y""\nz",3', {}, [{"col1": 1, "col2": 'x, "y"\nz', "col3": 3}]),
        ("1\n\n\n2\r\n\r\n3\r4", {}, [{"col1": 1}, {"col1": 2}, {"col1": 3}, {"col1": 4}]),
        ('1,,"",4', {}, [{"col1": 1, "col4": 4}]),
        ('1,,"",4', dict(include_null_values=True), [{"col1": 1, "col2": None, "col4": 4}]),
        ('1,,"",4', dict(include_empty_strings=True), [{"col1": 1, "col3": "", "col4": 4}]),
        (",\n,", {}, []),
        ("7", dict(temp="a,b", include_null_values=True), [{"a": 7, "b": None}]),
        ("1.50,-2,1e3,0x1f", {}, [{"col1": 1.5, "col2": -2, "col3": 1000, "col4": 31}]),
        ("007,+49,-01, 5,  ,1 V", {}, [
            {"col1": "007", "col2": "+49", "col3": "-01", "col4": 5, "col5": "  ", "col6": "1 V"}]),
        ("1,x", dict(strings=False), [{"col1": "1", "col2": "x"}]),
        (b"\xc3\xa9,1", {}, [{"col1": "é", "col2": 1}]),
        ("", {}, []),
    ],
)  # fmt: skip
def test_rows_become_objects(text: str | bytes, properties: dict[str, Any], expected: list[Any]) -> None:
    assert objects(text, **properties) == expected


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ('a"b,c', ['a"b', "c"]),
        ('"a"b,c', ['a"b', "c"]),
        ('a",b', ["a", "b"]),
        ('a""b', ['a"b']),
        (' "a",b', [' "a', "b"]),
        ('"open, and\nopen', ["open, and\nopen"]),
        ('"""q"""', ['"q"']),
    ],
)
def test_stray_quotes_are_kept_or_refused_where_it_is_strict(text: str, cells: list[str]) -> None:
    assert [*rows(text, ",")] == [cells]
    if text != '"""q"""':
        with pytest.raises(CsvError, match=r"^a quote stands where it must not, in the cell at position 1: "):
            [*rows(text, ",", strict=True)]


def test_each_row_says_which_it_is() -> None:
    before = msg("1\n2", "t", kept=True)
    first, second = reader()(before)
    assert first.props == {
        "kept": True, "columns": "col1", "parts": {"id": message_id(before), "index": 0, "count": 2},
    }  # fmt: skip
    assert second.props is not None
    assert second.props["parts"]["index"] == 1
    assert (first.topic, second.payload) == ("t", {"col1": 2})


def test_only_one_list_of_all_rows_holds_messages() -> None:
    assert isinstance(build("csv", multi="mult", temp="a"), Holder)
    assert not isinstance(build("csv", temp="a"), Holder)


def test_names_of_the_columns_go_along() -> None:
    [made] = reader(hdrin=True)(msg('"a, b",,c\n1,2,3'))
    assert (made.payload, (made.props or {})["columns"]) == ({"a, b": 1, "c": 3}, '"a, b",c')


def lines(*payloads: str, id: str = "q") -> list[Msg]:
    count = len(payloads)
    return [msg(text, parts={"id": id, "index": i, "count": count}) for i, text in enumerate(payloads)]


def test_lines_of_a_sequence_share_the_header() -> None:
    made = reader(hdrin=True)(*lines("a,b", "1,2", "3,4"))
    assert [each.payload for each in made] == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    assert [(each.props or {})["parts"] for each in made] == [
        {"id": "q", "index": 0, "count": 2}, {"id": "q", "index": 1, "count": 2},
    ]  # fmt: skip
    assert ["complete" in (each.props or {}) for each in made] == [False, True]


def test_sequence_that_ends_with_nothing_says_that_it_is_complete() -> None:
    *_, last = reader()(*lines("1", ""))
    assert (last.payload, last.props) == (None, {"complete": True})


def test_header_that_is_malformed_fails() -> None:
    with pytest.raises(CsvError, match=r"^a quote stands where it must not, in the cell at position 3: "):
        reader(hdrin=True)(msg('a,b"c\n1,2'))


# -- objects to text ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "properties", "expected"),
    [
        ({"d": 1, "b": 3, "c": 2, "a": 4}, dict(temp="a,b,c,,d"), "4,3,2,,1\n"),
        ({"a": 1, "b": "x"}, {}, "1,x\n"),
        ([{"a": 1, "b": 2}, {"b": 3}], {}, "1,2\n,3\n"),
        ([{"a": 1}, {"a": 2}], dict(temp="a", hdrout="all"), "a\n1\n2\n"),
        ([{"a": 1, "b": 2}], dict(hdrout="all", sep=";"), "a;b\n1;2\n"),
        ([{"a": 1}], dict(temp="a", hdrout=True), "a\n1\n"),
        ([{"a": 1}], dict(temp="a", hdrout=False), "1\n"),
        ({"a;b": 1}, dict(temp='"a;b"', hdrout="all", sep=";"), '"a;b"\n1\n'),
        ([1, "x,y", 'q"r', "l\nm", None], {}, '1,"x,y","q""r","l\nm",null\n'),
        ([[1, 2], [3]], {}, "1,2\n3\n"),
        ([[1, 2, 3], [4]], dict(temp="a,,c"), "1,,3\n4,,\n"),
        ({"a": {"z": 1}, "b": [1, 2], "c": True, "d": 2.0}, {}, '"{""z"":1}","[1,2]",true,2\n'),
        ({"a": 1}, dict(temp="a,b"), "1,\n"),
        ([], {}, "\n"),
    ],
)
def test_objects_become_rows(payload: Any, properties: dict[str, Any], expected: str) -> None:
    assert written(payload, **properties) == expected


def test_line_end_is_that_of_rfc_4180_unless_said() -> None:
    assert Bench("csv").payloads(msg({"a": 1})) == ["1\r\n"]
    assert Bench("csv", ret="\\r").payloads(msg({"a": 1})) == ["1\r"]


def test_columns_of_the_message_are_taken_where_the_node_has_none() -> None:
    before = msg({"a": 1, "b": 2}, columns="b,a")
    [made] = Bench("csv", hdrout="all", ret="\\n")(before)
    assert (made.payload, (made.props or {})["columns"]) == ("b,a\n2,1\n", "b,a")
    assert Bench("csv", temp="a", ret="\\n").payloads(before) == ["1\n"]


def test_header_once_until_reset() -> None:
    bench = Bench("csv", temp="a", hdrout="once", ret="\\n")
    row = msg({"a": 1})
    assert bench.payloads(row, row) == ["a\n1\n", "1\n"]
    assert bench.payloads(msg(None, reset=True), row) == ["a\n1\n"]
    assert bench.payloads(msg({"a": 2}, reset=True)) == ["a\n2\n"]


def test_header_of_a_message_that_fails_is_not_counted_as_sent() -> None:
    bad = msg([{"a": 1}, 5])
    found = batch_is_one_by_one("csv", [bad, msg({"a": 1}), bad, msg({"a": 2})], temp="a", hdrout="once")
    assert [made["payload"] for made in found["ports"][0]] == ["a\r\n1\r\n", "2\r\n"]
    assert found["errors"][0][1] == "TypeError: a row is int, expected an object or a list like the first"


def test_payload_that_is_given_stays_as_it_is() -> None:
    payload = [{"a": 'q"r'}, {"a": [1]}]
    written(payload, hdrout="all")
    assert payload == [{"a": 'q"r'}, {"a": [1]}]


@pytest.mark.parametrize("payload", [5, True])
def test_what_is_neither_fails(payload: Any) -> None:
    with pytest.raises(
        TypeError, match=r"^msg\.payload is (int|bool), expected a text, an object or a list$"
    ):
        Bench("csv")(msg(payload))


def test_message_without_payload_passes() -> None:
    without = msg(None)
    assert Bench("csv")(without) == [without]


def test_wrong_properties_are_named() -> None:
    assert refused("csv", sep=";;").startswith("property \"sep\": ';;' is not one letter")
    assert refused("csv", sep='"').startswith('property "sep": ')
    assert refused("csv", temp='a,b"c').startswith('property "temp": a quote stands where it must not')
    assert refused("csv", temp="a\nb") == 'property "temp": column names are one line, but these are 2'
    assert refused("csv", skip=-1).startswith('property "skip": -1 is out of range')
    assert "property \"spec\": 'excel' is not one of" in refused("csv", spec="excel")
    assert "property \"hdrout\": 'never' is not one of" in refused("csv", hdrout="never")


# -- properties ---------------------------------------------------------------------------------------------------

CELLS = st.text(st.sampled_from('ab,;"\n\r 01.é'), max_size=6)


@given(
    st.lists(st.lists(CELLS.filter(bool), min_size=1, max_size=4), min_size=1, max_size=5),
    st.sampled_from([",", ";"]),
)
def test_what_is_written_is_read_again(table: list[list[str]], sep: str) -> None:
    text = "\r\n".join(sep.join(quoted(cell, sep) for cell in row) for row in table)
    assert [*rows(text, sep, strict=True)] == table


@given(st.lists(st.lists(CELLS.filter(bool), min_size=1, max_size=4), min_size=1, max_size=5))
def test_the_standard_library_reads_it_in_the_same_way(table: list[list[str]]) -> None:
    text = "\r\n".join(",".join(quoted(cell, ",") for cell in row) for row in table)
    assert [*standard_csv.reader(io.StringIO(text, newline=""))] == [*rows(text, ",")]


@given(st.text(st.sampled_from('a,"\r\n'), max_size=20))
def test_any_text_is_read_to_its_end(text: str) -> None:
    cells = [cell for row in rows(text, ",") for cell in row if cell]
    assert sum(cell.count("a") for cell in cells) == text.count("a")


@given(st.text(st.sampled_from("a\r\n"), max_size=12), st.integers(0, 4))
def test_lines_passed_over_are_those_of_the_text(text: str, count: int) -> None:
    ends = io.StringIO(text, newline=None).read().split("\n")
    rest = io.StringIO(text[after_lines(text, count) :], newline=None).read().split("\n")
    assert rest == (ends[count:] or [""])


MESSAGES = st.builds(
    lambda payload, props: msg(payload, **props),
    st.sampled_from(
        ["1,2\n3", "a,b", "x", "", '"q', {"a": 1}, [{"b": 1}, {"a": 2}], [1, 2], [[1], 5], 5, None, b"\xff"]
    ),
    st.sampled_from(
        [{}, {}, {"reset": True}, {"columns": "b,a"}, {"parts": {"id": "q", "index": 1, "count": 3}}]
    ),
)


@given(
    st.lists(MESSAGES, max_size=6),
    st.booleans(),
    st.sampled_from(["none", "all", "once"]),
    st.sampled_from(["", "a,b"]),
)
def test_batch_is_one_by_one(msgs: list[Msg], hdrin: bool, hdrout: str, temp: str) -> None:
    batch_is_one_by_one("csv", msgs, hdrin=hdrin, hdrout=hdrout, temp=temp)


# -- one list of a sequence ---------------------------------------------------------------------------------------


def flow_with(**properties: Any) -> tuple[dict[str, Any], ...]:
    node = {"id": "c", "type": "csv", "multi": "mult", "wires": [["k"]], **properties}
    return raw("s", "source", ["c"]), node, raw("k", "sink")


@pytest.mark.parametrize(
    ("properties", "payloads", "expected"),
    [
        (dict(hdrin=True), ["a,b", "1,2", "3,4"], [{"a": 1, "b": 2}, {"a": 3, "b": 4}]),
        (dict(temp="x"), ["1", "2\n"], [{"x": 1}, {"x": 2}]),
        (dict(temp="x", skip=1), ["note", "2\r\n"], [{"x": 2}]),
        (dict(temp="x"), ["1\n2\n3"], [{"x": 1}, {"x": 2}, {"x": 3}]),
    ],
)
def test_lines_of_a_sequence_become_one_list(
    properties: dict[str, Any], payloads: list[str], expected: list[Any], tmp_path: Path
) -> None:
    async def scenario(*, batch: bool) -> list[Msg]:
        async with running(*flow_with(**properties), state_dir=tmp_path) as lab:
            msgs = lines(*payloads)
            for some in [msgs] if batch else [[each] for each in msgs]:
                lab["s"].feed(some)
            await until(lab["k"].safe, "the list")
            found: list[Msg] = lab["k"].safe()
            return found

    for batch in (True, False):
        [made] = asyncio.run(scenario(batch=batch))
        assert made.payload == expected
        assert len(payloads) == 1 or set(made.props or {}) == {"columns"}


def test_text_without_parts_becomes_a_list_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(*flow_with(hdrin=True), state_dir=tmp_path) as lab:
            lab.feed("s", "a\n1\n2", {"a": 5})
            await until(lab["k"].safe, "the list")
            assert lab["k"].payloads() == [[{"a": 1}, {"a": 2}], "5\r\n"]

    asyncio.run(scenario())


def test_lines_that_are_held_outlive_a_restart(tmp_path: Path) -> None:
    msgs = lines("a", "1", "2")

    async def begin() -> None:
        async with running(*flow_with(hdrin=True), state_dir=tmp_path) as lab:
            await lab["s"].feed(msgs[:2])  # acknowledged: on disk

    async def end() -> None:
        async with running(*flow_with(hdrin=True), state_dir=tmp_path) as lab:
            lab["s"].feed(msgs[2:])
            await until(lab["k"].safe, "the list")
            assert lab["k"].payloads() == [[{"a": 1}, {"a": 2}]]

    asyncio.run(begin())
    asyncio.run(end())
