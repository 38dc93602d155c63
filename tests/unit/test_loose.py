"""Values and regular expressions as JavaScript takes them."""

from __future__ import annotations

import contextlib
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltflow.flow.properties import UNDEFINED
from voltflow.nodelib.js_regex import compile_regex, replacement
from voltflow.nodelib.loose import (
    as_cell,
    as_number,
    as_text,
    at_most,
    equal,
    json_text,
    leading_number,
    less,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"), (1.0, "1"), (-0.0, "0"), (0.1, "0.1"), (1e21, "1e+21"), (123456789012345680000.0, "123456789012345680000"),
        (1e-6, "0.000001"), (1e-7, "1e-7"), (-1.5e-9, "-1.5e-9"), (math.nan, "NaN"), (-math.inf, "-Infinity"),
        (None, "null"), (UNDEFINED, "undefined"), (True, "true"), ([1, None, [2, "a"]], "1,,2,a"), ({}, "[object Object]"),
        (b"\xc3\xa9\xff", "é�"),
    ],
)  # fmt: skip
def test_text(value: Any, text: str) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("", 0), (" 12 ", 12), ("1e3", 1000), (".5", 0.5), ("5.", 5), ("0b101", 5), ("0o17", 15), ("-Infinity", -math.inf),
        (None, 0), (True, 1), ([], 0), (["7"], 7), (b"7", 7),
    ],
)  # fmt: skip
def test_number(value: Any, number: float) -> None:
    assert as_number(value) == number


@pytest.mark.parametrize("value", ["x", "1 2", "1_000", "٣", "-0x1", UNDEFINED, {}, [1, 2], "nan", "inf"])
def test_not_a_number(value: Any) -> None:
    assert math.isnan(as_number(value))


@pytest.mark.parametrize(("value", "number"), [("12.5 V", 12.5), (" -3e2x", -300), (7, 7), (["8", 9], 8)])
def test_leading_number(value: Any, number: float) -> None:
    assert leading_number(value) == number
    assert math.isnan(leading_number("V 12"))
    assert math.isnan(leading_number(True))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_text_of_a_number_is_that_number(value: float) -> None:
    assert float(as_number(as_text(value))) == value


ANY = st.sampled_from(
    [None, UNDEFINED, True, False, 0, 1, 1.5, "", "1", "a", "true", [], [1], {}, b"1", math.nan]
)


@given(ANY, ANY)
def test_comparisons_agree(a: Any, b: Any) -> None:
    assert equal(a, b) == equal(b, a)
    if less(a, b):
        assert at_most(a, b)
        assert not less(b, a)


def test_json_text_writes_whole_numbers_without_a_point() -> None:
    assert json_text({"a": [1.0, 1.5, math.nan]}) == '{"a":[1,1.5,null]}'
    assert (as_cell({"a": 1}), as_cell(b"x"), as_cell(None)) == ('{"a":1}', "x", "null")


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        (r"^\d$", "5", "٣"), (r"^\w+$", "a_1", "é"), ("b$", "ab", "b\n"), ("[$]", "$", "a"), (r"^[^\d]$", "a", "5"),
        (r"^\D$", "a", "5"), ("^[^]$", "\n", ""), ("[]", "", ""), ("[[]", "[", "]"), (r"a\/b", "a/b", "ab"),
        (r"(?<q>['\"]).\k<q>", "'a'", "'a\""), (r"^\u{e9}$", "é", "e"), (r"\-\@", "-@", "@-"), (r"(?<=a)b", "ab", "bb"),
        (r"^\u00e9$", "é", "e"), (r"[\]a]$", "]", "b"),
    ],
)  # fmt: skip
def test_regular_expression(pattern: str, matching: str, other: str) -> None:
    found = compile_regex(pattern)
    assert found.search(other) is None
    assert pattern == "[]" or found.search(matching) is not None


def test_expression_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match=r"^'a\(' is not a regular expression: missing \)"):
        compile_regex("a(")


@pytest.mark.parametrize(
    ("text", "result"),
    [("$1$2", "ab"), ("$2-$1", "b-a"), ("$&$&", "abab"), ("$$1", "$1"), ("$3", "$3"), ("$12", "a2"), ("$`|$'", "<|>"), ("$x", "$x"), ("$<n>", "$<n>")],
)  # fmt: skip
def test_replacement(text: str, result: str) -> None:
    expression = compile_regex("(a)(b)")
    assert expression.sub(replacement(expression, text), "<ab>") == f"<{result}>"


@given(st.text(st.sampled_from(r"ab[]^$\(?<>)dw/"), max_size=10))
def test_any_pattern_is_compiled_or_refused(pattern: str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(compile_regex(pattern), re.Pattern)
