"""One wrong bit is found and turned back wherever it is; more than one is never taken for one."""

from __future__ import annotations

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltflow.spool.crc import mend

DATA = st.binary(min_size=1, max_size=3000)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@given(data=DATA, bit=st.integers(0, 2**30))
def test_any_wrong_bit_of_the_data_is_turned_back(data: bytes, bit: int) -> None:
    assert mend(flipped(data, bit % (8 * len(data))), crc32(data)) == data


@given(data=DATA, bit=st.integers(0, 31))
def test_a_wrong_bit_of_the_sum_leaves_the_data(data: bytes, bit: int) -> None:
    assert mend(data, crc32(data) ^ 1 << bit) == data


@given(data=DATA, bits=st.sets(st.integers(0, 2**30), min_size=2, max_size=2))
def test_two_wrong_bits_are_not_taken_for_one(data: bytes, bits: set[int]) -> None:
    places = {bit % (8 * len(data)) for bit in bits}
    damaged = data
    for place in places:
        damaged = flipped(damaged, place)
    assert mend(damaged, crc32(data)) == (None if len(places) == 2 else data)


@pytest.mark.parametrize(
    "bit", [0, 7, 8 * 100_000, 8 * 1_000_000 - 1], ids=["first", "eighth", "middle", "last"]
)
def test_a_wrong_bit_of_a_megabyte_is_found(bit: int) -> None:
    data = bytes(range(250)) * 4000
    assert mend(flipped(data, bit), crc32(data)) == data
