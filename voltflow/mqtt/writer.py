"""Collects the packets of one turn of the event loop, so that they leave in one write."""

from __future__ import annotations

import asyncio
from typing import Any


class Writer:
    """What is to be sent: append to `packets`, then call `schedule`.

    What comes before `attach` waits for it: a broker sends the first messages together with its CONNACK.
    """

    __slots__ = ("_connection", "_scheduled", "packets")

    def __init__(self) -> None:
        self.packets: list[bytes] = []
        self._connection: Any = None
        self._scheduled = False

    def attach(self, connection: Any) -> None:
        """Write to this connection, one of gmqtt's."""
        self._connection = connection
        self.schedule()

    def detach(self) -> None:
        """Write what there is, and then no more."""
        self._flush()
        self._connection = None
        self.packets.clear()

    def schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        connection = self._connection
        if self.packets and connection is not None:
            if not connection.is_closing():
                connection.send_package(b"".join(self.packets))
            self.packets.clear()
