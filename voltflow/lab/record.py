"""Recorded traffic: what came from a broker and when, to run flows on it later.

JSON lines, compressed: a line says `at_ms` (when it was received), `topic`, and `payload` as text, or `payload64` where it is
none; `retain` marks what the broker had kept. A file that a crash has cut off is read as far as it goes.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import logging
import re
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

log = logging.getLogger(__name__)

SCHEMA: Final = "flow.recording/1"
FILE_S: Final = 600.0
"""A folder gets a new file so often."""
_NAME = re.compile(r"traffic-(\d{8}T\d{6})Z(?:-\d+)?\.jsonl\.gz")
_LAST = re.compile(r"last\s+(\d+(?:\.\d+)?)\s*(s|min|m|h|d)")
_SECONDS: Final = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class RecordingError(ValueError):
    """A recording cannot be used; the message says which and why."""


class Recorded(NamedTuple):
    """A message as it was received."""

    at_ms: int
    topic: str
    payload: bytes
    retain: bool = False


def encode(item: Recorded) -> str:
    """A line of a recording.

    >>> encode(Recorded(1, "t", b"21")), encode(Recorded(1, "t", bytes([255]), True))
    ('{"at_ms":1,"topic":"t","payload":"21"}', '{"at_ms":1,"topic":"t","payload64":"/w==","retain":true}')
    """
    line: dict[str, Any] = {"at_ms": item.at_ms, "topic": item.topic}
    try:
        line["payload"] = item.payload.decode()
    except UnicodeDecodeError:
        line["payload64"] = base64.b64encode(item.payload).decode()
    if item.retain:
        line["retain"] = True
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


def _decoded(line: str) -> Recorded:
    found = json.loads(line)
    payload = base64.b64decode(found["payload64"]) if "payload64" in found else found["payload"].encode()
    return Recorded(int(found["at_ms"]), str(found["topic"]), payload, bool(found.get("retain")))


def read(path: Path) -> Iterator[Recorded]:
    """The messages of a file, compressed or not, in its order; raises RecordingError."""
    number = 0
    try:
        with _opened(path) as file:
            for number, line in enumerate(file, 1):
                if not line.endswith("\n"):
                    break  # cut off within it
                if number == 1 and '"schema"' in line:
                    _check_schema(path, line)
                else:
                    yield _decoded(line)
    except (EOFError, zlib.error):
        log.info("%s ends in its line %d: it was being written, or was cut off", path, number)
    except (ValueError, KeyError, TypeError, AttributeError, gzip.BadGzipFile) as error:
        if isinstance(error, RecordingError):
            raise
        raise RecordingError(f"{path}: line {number or 1} is no recorded message: {error}") from None


def _opened(path: Path) -> TextIO:
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return (
        gzip.open(path, "rt", encoding="utf-8", newline="\n") if compressed else path.open(encoding="utf-8")
    )


def _check_schema(path: Path, line: str) -> None:
    schema = json.loads(line).get("schema")
    if schema != SCHEMA:
        raise RecordingError(f"{path}: it is a {schema!r}, expected is {SCHEMA!r}")


def select(what: str, folder: Path, limit: int) -> tuple[list[Recorded], int]:
    """The messages that `FILE` or `last 1h` (of a folder of recordings) stands for, in their order, the last `limit` of
    them, and how many there are; raises RecordingError."""
    match = _LAST.fullmatch(what.strip())
    items = read_last(folder, float(match[1]) * _SECONDS[match[2]]) if match else read(_file(what))
    kept: deque[Recorded] = deque(maxlen=limit)
    count = 0
    for item in items:
        kept.append(item)
        count += 1
    if not count:
        raise RecordingError(f"{what}: no message was recorded")
    return sorted(kept, key=lambda item: item.at_ms), count


def _file(what: str) -> Path:
    if not Path(what).is_file():
        raise RecordingError(f"{what!r} is no recording, and not written as 'last 1h' (s, min, h, d)")
    return Path(what)


def read_last(folder: Path, seconds: float) -> Iterator[Recorded]:
    """What the last so many seconds of a folder hold: counted from its newest message."""
    files = files_in(folder)
    if not files:
        raise RecordingError(f"{folder} has no recording: voltflow flow record --follow {folder} makes one")
    newest_ms = max((item.at_ms for file in files[-2:] for item in read(file)), default=0)
    since_ms = newest_ms - seconds * 1000
    ends_ms = [_started_ms(file) for file in files[1:]] + [newest_ms]
    for file, end_ms in zip(files, ends_ms, strict=True):
        if end_ms + FILE_S * 1000 >= since_ms:
            yield from (item for item in read(file) if item.at_ms >= since_ms)


def files_in(folder: Path) -> list[Path]:
    """The files of a folder of recordings, the oldest first."""
    return sorted(path for path in folder.glob("traffic-*.jsonl.gz") if _NAME.fullmatch(path.name))


def _started_ms(file: Path) -> float:
    match = _NAME.fullmatch(file.name)
    assert match is not None
    return datetime.strptime(match[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC).timestamp() * 1000


# -- writing ------------------------------------------------------------------------------------------------------


class Writer:
    """Writes one file, which can be read while it grows. Use: `with Writer(path, topics) as file: file.add(item)`."""

    def __init__(self, path: Path, topics: Iterable[str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.count = path, 0
        self._file = gzip.open(path, "xb", compresslevel=6)  # noqa: SIM115 - open until `close`
        self._line(json.dumps({"schema": SCHEMA, "topics": list(topics)}))

    def add(self, item: Recorded) -> None:
        self._line(encode(item))
        self.count += 1

    def _line(self, text: str) -> None:
        self._file.write(f"{text}\n".encode())

    def flush(self) -> None:
        """What was added can be read from now on, also where the program is killed."""
        self._file.flush()

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Writer:  # noqa: PYI034 - nobody derives from it
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FolderWriter:
    """Writes files of ten minutes into a folder, and drops what is older than `keep_s` or more than `keep_bytes`."""

    def __init__(self, folder: Path, topics: Iterable[str], keep_s: float, keep_bytes: float) -> None:
        self.folder, self.count, self.dropped_files = folder, 0, 0
        self._topics, self._keep_s, self._keep_bytes = list(topics), keep_s, keep_bytes
        self._file: Writer | None = None
        self._until_ms = 0.0

    def add(self, item: Recorded) -> None:
        if self._file is None or item.at_ms >= self._until_ms:
            self._begin(item.at_ms)
        assert self._file is not None
        self._file.add(item)
        self.count += 1

    def _begin(self, at_ms: int) -> None:
        self.close()
        stamp = datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y%m%dT%H%M%S")
        number, path = 0, self.folder / f"traffic-{stamp}Z.jsonl.gz"
        while path.exists():  # a start after a crash within the same second
            number += 1
            path = self.folder / f"traffic-{stamp}Z-{number}.jsonl.gz"
        self._file = Writer(path, self._topics)
        self._until_ms = at_ms + FILE_S * 1000
        self._tidy(at_ms)

    def _tidy(self, now_ms: int) -> None:
        files = files_in(self.folder)[:-1]  # not the one being written
        sizes = {file: file.stat().st_size for file in files}
        for file in files:
            old = _started_ms(file) + FILE_S * 1000 < now_ms - self._keep_s * 1000
            if old or sum(sizes.values()) > self._keep_bytes:
                del sizes[file]
                file.unlink()
                if not old:
                    self.dropped_files += 1
                    log.warning(
                        "%s is dropped: the recordings would be more than %.0f MB",
                        file,
                        self._keep_bytes / 1e6,
                    )

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            with contextlib.closing(self._file):
                self._file = None
