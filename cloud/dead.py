"""Dead letters in the history: find them, send their original bytes on their way again, put them aside.

A letter of a gateway goes back through the gateway that wrote it (`gw.down/1`), so that it runs through the flow again; what a bridge
refused is published again at the bridge's broker. The key of a message makes sure that it cannot become two rows.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from psycopg2.extensions import connection

from voltflow import topics
from voltflow.telemetry import Downlink

GATEWAY_KINDS = frozenset({topics.TELEMETRY.kind})
"""What a gateway publishes at its devices' broker for the cloud."""
BRIDGE_KINDS = frozenset({topics.TWIN.kind, topics.ALERT.kind, topics.LOSS.kind})
"""What bridges take; a state is retained and comes again by itself."""

_COLUMNS = (
    "id", "sha256", "fleet", "gateway", "node", "error", "topic", "payload", "truncated", "size_bytes", "received", "stored",
    "pack", "boot", "seq", "replayed", "dropped",
)  # fmt: skip
_TIME = "coalesce(received, stored)"


class Letter(msgspec.Struct):
    """A row of `dead_letter`; `payload` are the original bytes, or the first of them where it is truncated."""

    id: str
    sha256: str
    fleet: str
    gateway: str
    node: str
    error: str
    topic: str
    payload: bytes
    truncated: bool
    size_bytes: int
    received: dt.datetime | None
    stored: dt.datetime
    pack: str | None
    boot: int | None
    seq: int | None
    replayed: dt.datetime | None = None
    dropped: dt.datetime | None = None

    @property
    def state(self) -> str:
        """`open`, or what was done with it."""
        return "dropped" if self.dropped else "replayed" if self.replayed else "open"

    @property
    def time(self) -> dt.datetime:
        """When it was written, as far as the gateway knew; else when it was stored."""
        return (self.received or self.stored).astimezone(dt.UTC)


class Wanted(msgspec.Struct, frozen=True):
    """Which letters: all that is given must fit. `node`, `pack` and `id` are exact, `id` may be its beginning, `error` a
    part of the error; `done` takes those too that were replayed or dropped."""

    node: str = ""
    error: str = ""
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    pack: str = ""
    id: str = ""
    done: bool = False

    def condition(self) -> str:
        parts = {
            "node = %(node)s": self.node,
            "strpos(lower(error), lower(%(error)s)) > 0": self.error,
            f"{_TIME} >= %(since)s": self.since,
            f"{_TIME} < %(until)s": self.until,
            "pack = %(pack)s": self.pack,
            "starts_with(id, %(id)s)": self.id,
            "replayed IS NULL AND dropped IS NULL": not self.done,
        }
        return " AND ".join(part for part, given in parts.items() if given) or "true"


def find(conn: connection, wanted: Wanted, limit: int) -> list[Letter]:
    """The newest letters that are wanted."""
    columns = ", ".join(_COLUMNS)
    sql = f"SELECT {columns} FROM dead_letter WHERE {wanted.condition()} ORDER BY {_TIME} DESC, id LIMIT %(limit)s"  # noqa: S608
    with conn.cursor() as cursor:
        cursor.execute(sql, {**msgspec.structs.asdict(wanted), "limit": limit})
        found = [dict(zip(_COLUMNS, row, strict=True)) for row in cursor.fetchall()]
    return [Letter(**{**row, "payload": bytes(row["payload"])}) for row in found]


def count(conn: connection, wanted: Wanted) -> int:
    """How many letters are wanted."""
    with conn.cursor() as cursor:
        cursor.execute(
            f"SELECT count(*) FROM dead_letter WHERE {wanted.condition()}",  # noqa: S608
            msgspec.structs.asdict(wanted),
        )
        return int(_only(cursor))


def is_row(conn: connection, letter: Letter) -> bool | None:
    """Whether the message has become a row; None where the letter has no key."""
    if letter.pack is None or letter.seq is None:
        return None
    with conn.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM telemetry WHERE fleet = %s AND pack = %s AND boot = %s AND seq = %s)",
            (letter.fleet, letter.pack, letter.boot, letter.seq),
        )
        return bool(_only(cursor))


def _only(cursor: Any) -> Any:
    return cursor.fetchall()[0][0]


def mark(conn: connection, letters: Sequence[Letter], what: str) -> int:
    """Note that the letters were `replayed` or `dropped` now; how many were not yet."""
    assert what in {"replayed", "dropped"}
    keys = [letter.id for letter in letters], [letter.sha256 for letter in letters]
    with conn, conn.cursor() as cursor:
        cursor.execute(
            f"UPDATE dead_letter d SET {what} = now() FROM unnest(%s::text[], %s::text[]) AS k(id, sha256) "  # noqa: S608
            f"WHERE d.id = k.id AND d.sha256 = k.sha256 AND d.{what} IS NULL",
            keys,
        )
        return int(cursor.rowcount)


def publication(letter: Letter) -> tuple[str, bytes]:
    """Topic and payload that send the original on its way again; raises ValueError saying why it cannot be.

    >>> publication(
    ...     Letter(
    ...         "1",
    ...         "",
    ...         "f",
    ...         "gw",
    ...         "validate",
    ...         "",
    ...         "ev/v1/f/p/telemetry",
    ...         b"{}",
    ...         True,
    ...         300000,
    ...         None,
    ...         dt.datetime.now(dt.UTC),
    ...         None,
    ...         None,
    ...         None,
    ...     )
    ... )
    Traceback (most recent call last):
    ValueError: only 2 of its 300000 bytes were kept (max_bytes of the node `dead letter`)
    """
    if letter.truncated:
        kept = f"only {len(letter.payload)} of its {letter.size_bytes} bytes were kept"
        raise ValueError(f"{kept} (max_bytes of the node `dead letter`)")
    found = topics.parse(letter.topic)
    kind = found.kind if found else ""
    if kind in BRIDGE_KINDS:
        return letter.topic, letter.payload
    if kind not in GATEWAY_KINDS:
        kinds = ", ".join(sorted(GATEWAY_KINDS | BRIDGE_KINDS))
        raise ValueError(f"its topic {letter.topic!r:.100} is not one that is sent again ({kinds})")
    if not topics.is_name(letter.gateway):
        raise ValueError(f"its gateway {letter.gateway!r:.100} is not known")
    down = Downlink("gw.down/1", letter.topic, letter.payload)
    return topics.gateway_down(letter.gateway), msgspec.json.encode(down)


Publish = Callable[[str, bytes], Awaitable[None]]
"""Publishes and returns when the broker has confirmed it; raises ValueError where it refused it or nobody listens."""


async def replay(conn: connection, letters: Sequence[Letter], publish: Publish) -> list[tuple[Letter, str]]:
    """Send the letters again, the oldest first, and mark them; those that were not, with the reason.

    Each is marked when the broker has it. Killed in between it is sent once more the next time, and stays one row.
    """
    refused = []
    for letter in sorted(letters, key=lambda letter: (letter.time, letter.seq or 0)):
        try:
            await publish(*publication(letter))
        except ValueError as error:
            refused.append((letter, str(error)))
        else:
            mark(conn, [letter], "replayed")
    return refused
