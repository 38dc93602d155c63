"""A spool's store for tests, and messages to put into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from voltflow.spool.format import Record
from voltflow.spool.store import Chunk, SpoolOptions, SpoolStore
from voltflow.telemetry import Loss

NOW_MS = 1_764_000_000_000
MB = 1024 * 1024


def store_of(folder: Path, now_ms: Any = lambda: NOW_MS, **options: Any) -> SpoolStore:
    values = {
        "telemetry_bytes": 100 * MB,
        "telemetry_age_s": 7 * 86400.0,
        "protected_bytes": 10 * MB,
        **options,
    }
    store = SpoolStore(SpoolOptions(folder, **values, gateway="gw1"), now_ms)
    store.open()
    return store


def twin(seq: int, pack: str = "p", size: int = 1500, boot: int = 1) -> Record:
    telemetry = {"seq": seq, "telemetry": {"pack_current_a": 0.0}, "pad": "x" * size}
    payload = msgspec.json.encode(telemetry)
    return Record(f"ev/v1/f/{pack}/twin", payload, NOW_MS + seq, "f", pack, boot, seq, NOW_MS + seq * 500)


def alert(seq: int, pack: str = "p") -> Record:
    return Record(f"ev/v1/f/{pack}/alert", b'{"code":"x"}', NOW_MS, "f", pack, 1, seq)


def kept(store: SpoolStore, records: list[Record]) -> None:
    for error in store.append([records]):
        if error is not None:
            raise error


def chunks(store: SpoolStore, limit: int = 100) -> list[Chunk]:
    """All that is left, delivered."""
    found = []
    while (chunk := store.read(limit, MB)) is not None:
        found.append(chunk)
        store.delivered(chunk)
    return found


def drained(store: SpoolStore, limit: int = 100) -> list[Record]:
    return [record for chunk in chunks(store, limit) for record in chunk.records]


def losses(records: list[Record]) -> list[tuple[str, int, int, str]]:
    found = [msgspec.json.decode(r.payload, type=Loss) for r in records if r.topic.endswith("/loss")]
    return [(loss.pack, loss.seq_from, loss.seq_to, loss.reason) for loss in found]


def segments(folder: Path, name: str = "telemetry") -> list[Path]:
    return sorted((folder / name).glob("*.seg"))


def damage(path: Path, at: int, count: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes(count))
