"""What a device keeps of what it published, so that it can publish it again: a bounded ring per pack, on disk.

Each message has a slot of its own in one sparse file without a name, found by pack and `seq`: nothing is indexed, the
oldest is overwritten, memory does not grow, and the file is gone with the program, however that ends.
"""

from __future__ import annotations

import logging
import os
import struct
import tempfile
import zlib
from typing import IO

log = logging.getLogger(__name__)

SLOT_BYTES = 1024
"""A simulated pack's message has 840 to 890 bytes; a longer one (many invalid fields) is compressed."""
_HEADER = struct.Struct("<qHB")  # seq, length, whether compressed


class Ring:
    """The last messages of each of `packs` packs: `messages` of each, less where `max_mb` (10⁶ bytes) is not enough.

    >>> ring = Ring(packs=1, messages=2, max_mb=1.0)
    >>> for seq in range(3):
    ...     ring.keep(0, seq, b"message %d" % seq)
    >>> [ring.get(0, seq) for seq in range(3)]
    [None, b'message 1', b'message 2']
    >>> ring.close()
    """

    def __init__(self, packs: int, messages: int, max_mb: float) -> None:
        self.messages = min(messages, int(max_mb * 1e6) // (SLOT_BYTES * max(packs, 1)))
        """How many of a pack are kept; 0 is none."""
        self.too_long = 0
        self._file: IO[bytes] | None = None

    def keep(self, pack: int, seq: int, payload: bytes) -> None:
        """Keep a message in place of the oldest. A disk that fails ends the ring, not the device."""
        if not self.messages:
            return
        room = SLOT_BYTES - _HEADER.size
        compressed = len(payload) > room
        data = zlib.compress(payload, 1) if compressed else payload
        if len(data) > room:
            self.too_long += 1
            return
        try:
            slot = _HEADER.pack(seq, len(data), compressed) + data
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="sim-device-")  # noqa: SIM115 - it is closed by `close`
            os.pwrite(self._file.fileno(), slot, self._offset(pack, seq))
        except OSError as error:
            log.warning(
                "nothing is kept for replay any more: %s (settings ring_messages, ring_max_mb)", error
            )
            self.close()

    def get(self, pack: int, seq: int) -> bytes | None:
        """The message as it was published, None where it is not kept (any more)."""
        if self._file is None:
            return None
        slot = os.pread(self._file.fileno(), SLOT_BYTES, self._offset(pack, seq))
        if len(slot) < _HEADER.size:
            return None
        kept_seq, length, compressed = _HEADER.unpack_from(slot)
        data = slot[_HEADER.size : _HEADER.size + length]
        if kept_seq != seq or not data:  # an empty slot reads as zeros, and so as seq 0
            return None
        return zlib.decompress(data) if compressed else data

    def close(self) -> None:
        """Forget everything."""
        self.messages = 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def _offset(self, pack: int, seq: int) -> int:
        return (pack * self.messages + seq % self.messages) * SLOT_BYTES
