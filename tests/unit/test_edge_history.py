"""The short histories: what was put in comes out, oldest first, within the bytes that are allowed."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given, settings

from edge.history import LEAST_ROWS, VALUES, History


def _row(number: int) -> list[float | None]:
    return [float(number), None, *[number + 0.25] * (len(VALUES) - 2)]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 5, 20, 40]), st.integers(1, 60)), max_size=12),
    st.integers(1, 50),
)
def test_the_last_rows_of_each_pack_however_the_rings_grow(parts: list[tuple[int, int]], limit: int) -> None:
    history, expected = History(budget_bytes=0), dict[int, list[int]]()
    for slot, count in parts:
        for _ in range(count):
            number = len(expected.setdefault(slot, []))
            expected[slot].append(number)
            history.append(slot, number * 10_000, _row(number))
    for slot, numbers in expected.items():
        found = history.rows(slot, limit)
        assert [ts_ms // 10_000 for ts_ms, _ in found] == numbers[-min(limit, LEAST_ROWS) :]
        for ts_ms, values in found:
            assert list(values.values()) == _row(ts_ms // 10_000)
    assert history.rows(99, 5) == []


def test_a_few_packs_keep_two_hours_and_many_share_the_bytes() -> None:
    history = History(budget_bytes=1_000_000)
    for number in range(800):
        history.append(0, number, _row(number))
    assert len(history.rows(0, 10_000)) == 720
    history.append(400, 0, _row(0))
    assert [ts_ms for ts_ms, _ in history.rows(0, 10_000)][-1] == 799
    assert LEAST_ROWS <= len(history.rows(0, 10_000)) < 50


def test_what_no_sensor_measures_does_no_harm() -> None:
    history = History()
    history.append(3, 1, [1e300, -1e39, *[1.5] * (len(VALUES) - 2)])
    assert list(history.rows(3, 1)[0][1].values()) == [None, None, *[1.5] * (len(VALUES) - 2)]
