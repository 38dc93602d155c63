"""CRC-32 that mends: where one bit of the data or of its stored sum is wrong, that bit is found and turned back.

CRC-32 is linear: the sum of damaged data differs from the stored one by a pattern that depends only on which bits are
wrong and how far they stand from the end. Patterns of single bits are all different (the code's Hamming distance is 4
up to 11 kB and at least 3 up to 512 MB), so at most one bit fits. It is found by taking the pattern back byte by byte from
the end, which costs one table look-up a byte instead of a CRC of everything for each bit.
"""

from __future__ import annotations

from zlib import crc32

_POLYNOMIAL = 0xEDB88320


def _table_entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
    return value


_TABLE = [_table_entry(value) for value in range(256)]
_BACK = {entry >> 24: (index, entry) for index, entry in enumerate(_TABLE)}
"""One zero byte more takes a pattern p to `p >> 8 ^ _TABLE[p & 255]`; the top byte says which entry that was."""
_BITS = {_TABLE[1 << bit]: 1 << bit for bit in range(8)}
"""What a wrong bit of the last byte does to the sum."""


def mend(data: bytes, stored: int) -> bytes | None:
    """The data with its one wrong bit turned back, or None where more than that is wrong.

    >>> mend(b"heldo", crc32(b"hello")) is None  # 'd' and 'l' differ in one bit: 0x64, 0x6c
    False
    >>> mend(b"heldo", crc32(b"hello"))
    b'hello'
    >>> mend(b"world", crc32(b"hello")) is None
    True
    >>> mend(b"hello", crc32(b"hello") ^ 4)  # the sum itself was hit
    b'hello'
    """
    pattern = crc32(data) ^ stored
    if pattern.bit_count() <= 1:
        return data
    for index in range(len(data) - 1, -1, -1):
        if pattern in _BITS:
            mended = bytearray(data)
            mended[index] ^= _BITS[pattern]
            return bytes(mended)
        low, entry = _BACK[pattern >> 24]
        pattern = (pattern ^ entry) << 8 & 0xFFFFFFFF | low
    return None
