"""A spool that an earlier version wrote is read, with everything in it.

`tests/golden/spool_1` holds one of format version 1, never to be made anew: three kinds of segment (rewritten, closed, and
one without its end) and a cursor. A new format version gets a folder of its own, made by
`python tests/unit/test_spool_golden.py tests/golden/spool_<version>`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import msgspec

from voltflow.spool.format import Record, encode_group
from voltflow.spool.store import SpoolOptions, SpoolStore
from voltflow.telemetry import Loss

GOLDEN = Path(__file__).parents[1] / "golden"
NOW_MS = 1_764_000_000_000


def store_of(folder: Path) -> SpoolStore:
    options = SpoolOptions(folder, 20_000, 7 * 86400.0, 60_000, gateway="golden")
    store = SpoolStore(options, lambda: NOW_MS)
    store.open()
    return store


def twin(seq: int) -> Record:
    payload = msgspec.json.encode(
        {"seq": seq, "telemetry": {"pack_current_a": float(seq % 3)}, "pad": "x" * 200}
    )
    return Record(
        "ev/v1/demo/SIM000001/twin", payload, NOW_MS + seq, "demo", "SIM000001", 3, seq, NOW_MS + seq * 500
    )


def write(folder: Path) -> None:
    """A spool that was thinned, half delivered, closed, opened again and then killed."""
    store = store_of(folder)
    assert store.append(
        [[Record("ev/v1/demo/SIM000001/alert", b'{"code":"hot"}', NOW_MS, "demo", "SIM000001", 3, 5)]]
    ) == [None]
    seq = 0
    while store.counters.lost_by_reason.get("thinned_60s", 0) == 0:
        assert store.append([[twin(seq + i) for i in range(5)]]) == [None]
        seq += 5
    for _ in range(2):
        chunk = store.read(1, 10**6)
        assert chunk is not None
        store.delivered(chunk)
    store.close()
    store = store_of(folder)
    assert store.append([[twin(seq), twin(seq + 1)], [Record("plant/door", b"\x00open", NOW_MS)]]) == [
        None,
        None,
    ]
    with store.logs["telemetry"].segments[-1].path.open("ab") as file:
        file.write(encode_group([twin(seq + 2)], 2, NOW_MS)[:300])


def test_a_spool_of_version_1_is_read(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "spool_1", tmp_path / "spool")
    store = store_of(tmp_path / "spool")
    assert store.backlog().by_class == {"protected": 1, "telemetry": 37}
    records: list[Record] = []
    while (chunk := store.read(100, 10**6)) is not None:
        records += chunk.records
        store.delivered(chunk)
    assert records[0] == Record("plant/door", b"\x00open", NOW_MS)
    losses = [msgspec.json.decode(r.payload, type=Loss) for r in records if r.topic.endswith("/loss")]
    lost = [seq for loss in losses for seq in range(loss.seq_from, loss.seq_to + 1)]
    twins = [record for record in records[1:] if not record.topic.endswith("/loss")]
    assert all(record == twin(record.seq) for record in twins)
    assert sorted([*lost, *(record.seq for record in twins)]) == [
        0,
        *range(2, 147),
    ]  # the loss of 1 was delivered
    assert {loss.reason for loss in losses} == {"thinned_10s", "thinned_60s"}
    assert (store.counters.damaged, store.counters.torn) == (0, 1)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
