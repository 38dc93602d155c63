"""Any order of appends, deliveries, crashes, damage and shortage: every message is delivered or named as lost.

The store is the real one on a real folder. The model knows which messages were acknowledged, which came out, which the
loss records name, and which bytes it has damaged.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from voltflow.spool.format import HEADER_BYTES, Record
from voltflow.spool.read import READERS, decode_header, frames
from voltflow.spool.store import SpoolOptions, SpoolStore
from voltflow.telemetry import Loss

Key = tuple[str, str, int]
"""Kind, pack, seq."""
PACKS = ("a", "b")
TELEMETRY_BYTES, PROTECTED_BYTES = 40_000, 20_000
IN_MEMORY = Path("/dev/shm")
NOW_MS = 1_764_000_000_000


def record(kind: str, pack: str, seq: int) -> Record:
    telemetry = {
        "pack_current_a": float(seq % 7),
        "cell_temp_max_c": 20.0 + seq % 5,
        "text": "x" * (seq % 300),
    }
    payload = msgspec.json.encode({"telemetry": telemetry})
    return Record(f"ev/v1/f/{pack}/{kind}", payload, NOW_MS, "f", pack, 1, seq, NOW_MS + seq * 500)


def key_of(item: Record) -> Key:
    return item.topic.rsplit("/", 1)[1], item.pack, item.seq


class World(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.root = Path(
            tempfile.mkdtemp(prefix="voltflow-spool-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None)
        )
        self.folder, self.run = self.root / "0", 0
        self.seqs = dict.fromkeys([(kind, pack) for kind in ("twin", "alert") for pack in PACKS], 0)
        self.kept: set[Key] = set()
        self.got: list[Key] = []
        self.lost: list[Key] = []
        self.order: dict[tuple[str, str], int] = {}
        self.hit_files: set[int] = set()
        self.hit: set[Key] = set()
        self.not_counted = self.again = self.header_hit = False
        self.damaged = self.repaired = 0
        self.chunk: Any = None
        self.start()

    def start(self) -> None:
        options = SpoolOptions(self.folder, TELEMETRY_BYTES, 7 * 86400.0, PROTECTED_BYTES, gateway="gw")
        self.store = SpoolStore(options, lambda: NOW_MS)
        self.store.open()
        self.chunk = None

    def ended(self) -> None:
        self.damaged += self.store.counters.damaged
        self.repaired += self.store.counters.repaired
        self.not_counted |= self.store.counters.torn > 0

    def teardown(self) -> None:
        if hasattr(self, "store"):
            try:
                self.everything_is_accounted_for()
            finally:
                self.store.close()
                shutil.rmtree(self.root)

    # What happens

    def new(self, kind: str, pack: str, count: int) -> list[Record]:
        first = self.seqs[kind, pack]
        self.seqs[kind, pack] += count
        return [record(kind, pack, seq) for seq in range(first, first + count)]

    @rule(pack=st.sampled_from(PACKS), count=st.integers(1, 12), alerts=st.integers(0, 2))
    def append(self, pack: str, count: int, alerts: int) -> None:
        calls = [self.new("twin", pack, count)]
        if alerts:
            calls.append(self.new("alert", pack, alerts))
        for call, error in zip(calls, self.store.append(calls), strict=True):
            if error is None:
                self.kept |= {key_of(item) for item in call}
            else:
                assert call[0].topic.endswith("alert"), error

    @rule(count=st.integers(100, 400))
    def outage(self, count: int) -> None:
        for at in range(0, count, 10):
            self.append(PACKS[at // 10 % 2], 10, 0)

    @rule(limit=st.integers(1, 40), max_bytes=st.integers(1, 10_000))
    def read(self, limit: int, max_bytes: int) -> None:
        self.chunk = self.store.read(limit, max_bytes)

    @precondition(lambda self: self.chunk is not None)
    @rule()
    def delivered(self) -> None:
        for item in self.chunk.records:
            kind, pack, seq = key_of(item)
            if kind == "loss":
                loss = msgspec.json.decode(item.payload, type=Loss)
                self.lost += [("twin", pack, lost) for lost in range(loss.seq_from, loss.seq_to + 1)]
                continue
            assert item == record(kind, pack, seq)
            assert seq > self.order.get((kind, pack), -1), "out of order"
            self.order[kind, pack] = seq
            self.got.append((kind, pack, seq))
        self.store.delivered(self.chunk)
        self.chunk = None

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.ended()
        if (
            self.header_hit
        ):  # its level is guessed, so where reading stood in it may be unknown: once more, then
            self.again, self.order = True, {}
        self.start()

    @rule(pack=st.sampled_from(PACKS), count=st.integers(0, 5), cut=st.floats(0, 1))
    def crash(self, pack: str, count: int, cut: float) -> None:
        """Power goes while a group is being written: of what this append adds to a file some bytes arrive."""
        before = {path: path.stat().st_size for path in self.segments()}
        self.store.append([self.new("twin", pack, count)])
        self.run += 1
        folder = self.root / str(self.run)
        shutil.copytree(self.folder, folder)
        for path in self.segments():
            size, old, header = path.stat().st_size, before.get(path, 0), decode_header(path.read_bytes())
            if (
                size > old and header is not None and header.level == 0
            ):  # one whose header was hit is not hit twice
                with (folder / path.relative_to(self.folder)).open("r+b") as file:
                    file.truncate(old + round((size - old) * cut))
        self.store.close()
        self.ended()
        self.folder, self.again, self.order, self.hit_files = folder, True, {}, set(self.inodes(folder))
        self.start()

    @rule(
        place=st.floats(0, 1, exclude_max=True),
        which=st.floats(0, 1, exclude_max=True),
        bit=st.integers(0, 7),
    )
    def flip_a_bit(self, place: float, which: float, bit: int) -> None:
        path = self.victim(which)
        if path is not None:
            data = bytearray(path.read_bytes())
            data[int(place * len(data))] ^= 1 << bit
            self.overwrite(path, bytes(data))

    @rule(
        place=st.floats(0, 1, exclude_max=True),
        which=st.floats(0, 1, exclude_max=True),
        junk=st.binary(min_size=2, max_size=120),
    )
    def damage(self, place: float, which: float, junk: bytes) -> None:
        path = self.victim(which)
        if path is not None:
            data = path.read_bytes()
            start = int(place * len(data))
            end = min(len(data), start + len(junk))
            self.hit |= affected(data, start, end)
            self.header_hit |= start < HEADER_BYTES
            # Both copies of the losses count as one message, however many they named.
            self.not_counted |= (
                sum(f.is_losses and f.start < end and start < f.end for f in frames(data)) == 2
            )
            self.overwrite(path, data[:start] + junk[: end - start] + data[end:])

    def overwrite(self, path: Path, data: bytes) -> None:
        with path.open("r+b") as file:
            file.write(data)
        self.hit_files.add(path.stat().st_ino)
        self.store.drains["telemetry"].forget()
        self.store.drains["protected"].forget()

    def victim(self, which: float) -> Path | None:
        """A file that was not hit yet: the promise is about one hit at a time."""
        paths = [path for path in self.segments() if path.stat().st_ino not in self.hit_files]
        return paths[int(which * len(paths))] if paths else None

    def segments(self) -> list[Path]:
        return sorted(self.folder.rglob("*.seg"))

    def inodes(self, folder: Path) -> list[int]:
        """Files of a crash are not hit a second time."""
        return [path.stat().st_ino for path in folder.rglob("*.seg")]

    # What must hold

    @invariant()
    def nothing_is_larger_than_allowed(self) -> None:
        if hasattr(self, "store"):
            for name, allowed in (("telemetry", TELEMETRY_BYTES), ("protected", PROTECTED_BYTES)):
                size = sum(path.stat().st_size for path in (self.folder / name).iterdir())
                assert size <= allowed

    def everything_is_accounted_for(self) -> None:
        while True:
            self.read(50, 100_000)
            if self.chunk is None:
                break
            self.delivered()
        assert self.store.backlog().messages == 0
        self.ended()
        missing = self.kept - set(self.got) - set(self.lost)
        assert missing <= self.hit, "damage costs no more than what it hit"
        assert self.not_counted or len(missing) <= self.damaged
        if not self.again:
            assert len(self.got) == len(set(self.got)), "twice"
            named = [key for key in self.lost if key[1:] not in {k[1:] for k in self.hit}]
            assert len(named) == len(set(named)), "named twice"
            assert not set(named) & set(self.got), "both delivered and lost"


def affected(data: bytes, start: int, end: int) -> set[Key]:
    """The messages that damage of these bytes may cost."""
    header = decode_header(data)
    assert header is not None
    reader = READERS[1]
    footer = reader.decode_footer(data) or reader.recover(data)[0]
    keys: set[Key] = set()
    places = [frame for frame in frames(data) if frame.start < end and start < frame.end]
    group, at, number = None, HEADER_BYTES, 0
    if header.level:
        losses = reader.read_losses(data, footer)
        at = losses.end
        if sum(frame.is_losses for frame in places) == 2:
            keys |= {("twin", r.pack, seq) for r in losses.entries for seq in range(r.seq_from, r.seq_to + 1)}  # type: ignore[union-attr]
    while (group := reader.read_group(data, at, number, footer)) is not None:
        hit = {frame.number for frame in places if frame.is_record}
        keys |= {
            key_of(entry)
            for index, entry in enumerate(group.entries, number)
            if index in hit and isinstance(entry, Record)
        }
        at, number = group.end, group.number
    return keys


World.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSpool = World.TestCase


@pytest.mark.parametrize("where", [HEADER_BYTES, HEADER_BYTES + 3])
def test_the_first_copy_of_a_segments_losses_is_overwritten_and_nothing_is_lost(where: int) -> None:
    """Its records were passed over, and then reading never came to an end."""
    world = World()
    world.begin()
    world.outage(400)
    rewritten = [
        path
        for path in world.segments()
        if (header := decode_header(path.read_bytes())) is not None and header.level > 0
    ]
    for path in rewritten:
        data = path.read_bytes()
        world.overwrite(path, data[:where] + b"\xa5" * 20 + data[where + 20 :])
    assert len(rewritten) > 1
    world.teardown()
