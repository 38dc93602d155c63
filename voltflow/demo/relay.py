"""The demo's way to the cloud: a TCP relay that can be cut, as a tunnel or a depot's router cuts it."""

from __future__ import annotations

import asyncio
import contextlib

CHUNK_BYTES = 65536


class Relay:
    """Passes connections on to another port of this machine. Use: `open`, `cut`, `mend`, `close`."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.whole = True
        self.port = 0
        """Where it listens, after `open`."""

    async def open(self, host: str = "127.0.0.1") -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._serve, host, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """End all connections and take no more."""
        self.whole = False
        for task in list(self._connections):
            task.cancel()

    def mend(self) -> None:
        """Take connections again."""
        self.whole = True

    async def close(self) -> None:
        """End everything."""
        self.cut()
        if self._server is not None:
            self._server.close()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if self.whole:
                await self._pass_on(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # whoever it was sees that the connection is gone
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        ways = {
            asyncio.create_task(_copy(reader, far_writer)),
            asyncio.create_task(_copy(far_reader, writer)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            far_writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
