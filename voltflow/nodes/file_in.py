"""The `file in` node: reads a file."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from voltflow.message import Msg, message_id
from voltflow.node import Context, Worker, config, node
from voltflow.nodelib.files import Files
from voltflow.nodelib.once import Once
from voltflow.nodes.file import NAME_TYPES, check_encoding, check_name, decoded, name_of

CHUNK_BYTES = 64 * 1024


@node("file in", category="storage", color="#deb887", icon="file-in.svg")
class FileIn(Worker):
    """Read a file for each message: as a text, as bytes, line by line or in pieces.

    Files are below one folder of the gateway (`files_dir`), and a name that leads out of it makes the message fail, as does a
    file of more than 16 MiB. Lines and pieces are messages of their own with `parts`, which `join` understands. Nothing
    is kept: after a crash the file is read again.
    """

    filename: str = config(
        "", help="name of the file, below the folder; empty: msg.filename", types=NAME_TYPES, type_property="filenameType"
    )  # fmt: skip
    filenameType: str = config("str", help="where the name is from", choices=NAME_TYPES)
    format: str = config(
        "utf8", help="utf8: a text; lines: a message for each line; empty: bytes; stream: bytes in pieces",
        choices=("utf8", "lines", "", "stream"),
    )  # fmt: skip
    chunk: bool = config(False, help="kept for the editor", advanced=True)
    encoding: str = config("none", help="encoding of text; none: UTF-8", advanced=True)
    sendError: bool = config(
        False, help="a message that fails goes on without payload, with msg.error", advanced=True
    )
    allProps: bool = config(False, help="lines and pieces have all properties of the message")

    def __post_init__(self) -> None:
        check_name(self.filename, self.filenameType)
        check_encoding(self.encoding)

    async def start(self, ctx: Context) -> None:
        self._files = ctx.service(Files)
        self._name = name_of(self.filename, self.filenameType, ctx, self)
        self._once = Once(self._read_all)

    async def work(self, msgs: list[Msg]) -> list[Msg]:
        return [msg for read in await self._once(msgs) for msg in read]

    async def _read_all(self, msgs: list[Msg]) -> list[list[Msg] | Exception]:
        return [await self._read(msg) for msg in msgs]

    async def _read(self, msg: Msg) -> list[Msg] | Exception:
        try:
            name = self._name(msg)
            data = await asyncio.to_thread(self._files.read, name)
            return self._messages(msg, name, data)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what became of the message
            if not self.sendError:
                return error
            text = f"{type(error).__name__}: {error}"
            return [msg.derive(payload=None, props={**(msg.props or {}), "error": text})]

    def _messages(self, msg: Msg, name: str, data: bytes) -> list[Msg]:
        if self.format == "":
            return [_with(msg, data, {"filename": name})]
        if self.format == "stream":
            pieces = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)] or [b""]
            return self._parts(msg, name, pieces, "buffer", "")
        text = decoded(data, self.encoding)
        if self.format == "utf8":
            return [_with(msg, text.removeprefix("\ufeff"), {"filename": name})]
        return self._parts(msg, name, re.split(r"\r?\n", text.removeprefix("\ufeff")), "string", "\n")

    def _parts(self, msg: Msg, name: str, pieces: list[Any], kind: str, between: str) -> list[Msg]:
        base = msg if self.allProps else msg.derive(props=None)
        found = []
        for index, piece in enumerate(pieces):
            parts = {"index": index, "ch": between, "type": kind, "id": message_id(msg)}
            if index == len(pieces) - 1:
                parts["count"] = len(pieces)
            found.append(_with(base, piece, {"filename": name, "parts": parts}))
        return found


def _with(msg: Msg, payload: Any, props: dict[str, Any]) -> Msg:
    return msg.derive(payload=payload, props={**(msg.props or {}), **props})
