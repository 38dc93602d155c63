"""The `file` node: appends to a file, replaces or deletes it."""

from __future__ import annotations

import asyncio
import base64
import codecs
import os
from dataclasses import dataclass
from typing import Any

import msgspec

from voltflow.flow.properties import UNDEFINED, get, plain
from voltflow.flow.typed import check, compile_value
from voltflow.message import Msg
from voltflow.node import ConfigError, Context, SinkUnavailable, Worker, config, node
from voltflow.nodelib.files import FULL, Files
from voltflow.nodelib.loose import as_text
from voltflow.nodelib.once import Once

NAME_TYPES = ("str", "msg", "env", "jsonata")


@dataclass(frozen=True)
class _Job:
    """What is done for one message; None as data: the file is deleted."""

    position: int
    name: str
    data: bytes | None


@node("file", category="storage", color="#deb887", icon="file-out.svg")
class File(Worker):
    """Write the payload to a file: behind what is there, or in its place.

    Files are below one folder of the gateway (`files_dir`), and a name that leads out of it makes the message fail. A message
    goes on, and is acknowledged, when the file is safe on the disk; a crash before may make it be appended twice, and
    loses nothing. While the disk is full the node waits. A payload that is neither text nor bytes is written as JSON. A file that
    is replaced is whole at any time.
    """

    filename: str = config(
        "", help="name of the file, below the folder; empty: msg.filename", types=NAME_TYPES, type_property="filenameType"
    )  # fmt: skip
    filenameType: str = config("str", help="where the name is from", choices=NAME_TYPES)
    appendNewline: bool = config(True, help="end each payload with a new line, where it is not bytes")
    createDir: bool = config(False, help="make folders that are missing")
    overwriteFile: str = config(
        "false", help="false: append, true: replace the file, delete: delete it", choices=("false", "true", "delete")
    )  # fmt: skip
    encoding: str = config(
        "none", help="encoding of text; none: UTF-8, setbymsg: msg.encoding", advanced=True
    )

    def __post_init__(self) -> None:
        check_name(self.filename, self.filenameType)
        if self.encoding != "setbymsg":
            check_encoding(self.encoding)

    async def start(self, ctx: Context) -> None:
        self._files = ctx.service(Files)
        self._name = name_of(self.filename, self.filenameType, ctx, self)
        self._once = Once(self._write)

    async def work(self, msgs: list[Msg]) -> list[Msg]:
        return await self._once(msgs)

    async def _write(self, msgs: list[Msg]) -> list[Msg | Exception]:
        results: list[Msg | Exception] = []
        jobs: dict[str, list[_Job]] = {}
        for position, msg in enumerate(msgs):
            try:
                job = self._job(position, msg)
            except Exception as odd:  # noqa: BLE001 - a payload of any kind may fail in any way
                results.append(odd)
            else:
                results.append(msg)
                jobs.setdefault(job.name, []).append(job)
        for position, error in await asyncio.to_thread(self._do, list(jobs.values())):
            results[position] = error
        return results

    def _job(self, position: int, msg: Msg) -> _Job:
        name = self._name(msg)
        self._files.path(name)
        return _Job(position, name, None if self.overwriteFile == "delete" else self._bytes(msg))

    def _bytes(self, msg: Msg) -> bytes:
        payload = plain(msg.payload)
        if isinstance(payload, bytes | bytearray):
            return bytes(payload)
        if isinstance(payload, dict | list | tuple):
            text = msgspec.json.encode(payload).decode()
        else:
            text = as_text(payload)
        encoding = get(msg, "encoding") if self.encoding == "setbymsg" else self.encoding
        end = os.linesep if self.appendNewline else ""
        return encoded(f"{text}{end}", "none" if encoding in (UNDEFINED, None, "") else str(encoding))

    def _do(self, jobs: list[list[_Job]]) -> list[tuple[int, Exception]]:
        """What failed; a full disk is waited for."""
        failed: list[tuple[int, Exception]] = []
        for of_file in jobs:
            try:
                self._do_file(of_file)
            except OSError as error:
                why: Exception = error
                if error.errno in FULL:
                    why = SinkUnavailable(f"cannot write {of_file[0].name}: {error.strerror}")
                failed += [(job.position, why) for job in of_file]
        return failed

    def _do_file(self, jobs: list[_Job]) -> None:
        name, pieces = jobs[0].name, [job.data for job in jobs if job.data is not None]
        if self.overwriteFile == "delete":
            self._files.delete(name)
        elif self.overwriteFile == "true":
            self._files.replace(name, pieces[-1], make_folders=self.createDir)
        else:
            self._files.append(name, pieces, make_folders=self.createDir)


def check_name(name: str, kind: str) -> None:
    """Raises ConfigError where a name cannot be of its type."""
    try:
        if name or kind != "msg":
            check(name, kind)
    except ConfigError as error:
        raise ConfigError(f'property "filename": {error}') from None


def name_of(name: str, kind: str, ctx: Context, of: Worker) -> Any:
    """What gives the file's name for a message; it raises where there is none."""
    if not name:
        name, kind = "filename", "msg"
    value = compile_value(name, kind, ctx, of)

    def named(msg: Msg) -> str:
        found = value(msg)
        if not isinstance(found, str) or not found:
            raise ValueError(f"no name of a file: {kind} {name!r} is {found!r:.100}")
        return found

    return named


_NAMES = {
    "none": "utf-8",
    "ucs2": "utf-16-le",
    "utf16le": "utf-16-le",
    "utf16be": "utf-16-be",
    "binary": "latin-1",
}
_BYTES = {
    "hex": (bytes.fromhex, bytes.hex),
    "base64": (base64.b64decode, lambda data: base64.b64encode(data).decode()),
}
"""Texts that stand for bytes, both ways."""


def encoded(text: str, encoding: str) -> bytes:
    """The bytes of a text; raises ValueError where it has none in the encoding."""
    return _BYTES[encoding][0](text) if encoding in _BYTES else codec(encoding).encode(text)[0]


def decoded(data: bytes, encoding: str) -> str:
    """The text of bytes, with a mark for those that are none in the encoding."""
    return _BYTES[encoding][1](data) if encoding in _BYTES else codec(encoding).decode(data, "replace")[0]


def check_encoding(encoding: str) -> None:
    """Raises ConfigError where it is not known."""
    try:
        if encoding not in _BYTES:
            codec(encoding)
    except ValueError as error:
        raise ConfigError(f'property "encoding": {error}') from None


def codec(encoding: str) -> codecs.CodecInfo:
    """The codec of an encoding as Node-RED's list names it; raises ValueError."""
    try:
        found = codecs.lookup(_NAMES.get(encoding, encoding))
    except LookupError:
        raise ValueError(f"{encoding!r} is not an encoding that is known here") from None
    if not found._is_text_encoding:
        raise ValueError(f"{encoding!r} is not an encoding of text")
    return found
