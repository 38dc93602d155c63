"""What was seen of a pack: against a plain set of all keys, and the cases with names."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from voltflow.sequence import BOOTS, HOLES, NEW, Seen, Sequence


def _started(*seqs: int, boot: int = 1) -> Sequence:
    sequence = Sequence()
    for seq in seqs:
        sequence.see(boot, seq, 1000 * seq)
    return sequence


def _missing(sequence: Sequence, boot: int = 1) -> list[tuple[int, int]]:
    return [(hole.first, hole.last) for known in sequence.boots if known.boot == boot for hole in known.holes]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 60)), max_size=200))
def test_what_is_new_missing_and_doubled_is_what_a_set_of_all_keys_says(keys: list[tuple[int, int]]) -> None:
    sequence, seen = Sequence(), set[tuple[int, int]]()
    baseline = keys[0] if keys else (0, 0)
    for boot, seq in keys:
        answer = sequence.see(boot, seq)
        if boot == baseline[0] and seq < baseline[1]:
            assert answer.what == "unknown"
            continue
        assert (answer.what == "duplicate") == ((boot, seq) in seen)
        assert answer.what in {"duplicate", "new", "filled"}
        seen.add((boot, seq))
    for known in sequence.boots:
        have = {seq for boot, seq in seen if boot == known.boot}
        holes = {seq for hole in known.holes for seq in range(hole.first, hole.last + 1)}
        assert holes == set(range(known.first, max(have) + 1)) - have
        assert [hole.first for hole in known.holes] == sorted(hole.first for hole in known.holes)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 1000)), max_size=400))
def test_with_too_many_holes_nothing_that_was_seen_is_ever_new_again(keys: list[tuple[int, int]]) -> None:
    sequence, seen = Sequence(), set[tuple[int, int]]()
    for key in keys:
        answer = sequence.see(*key)
        assert key not in seen or answer.what == "duplicate"
        if answer.what != "unknown":
            seen.add(key)
        assert all(len(boot.holes) <= HOLES for boot in sequence.boots)
    first = {boot.boot: boot.first for boot in sequence.boots}
    gone = sum(boot.next - boot.first for boot in sequence.boots) - len(
        [key for key in seen if key[1] >= first[key[0]]]
    )
    assert sequence.forgotten == gone - sum(hole.size for hole in sequence.open_holes())


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 60)), max_size=60),
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 60)), max_size=20),
)
def test_a_copy_and_one_that_was_encoded_go_on_as_the_original(
    before: list[tuple[int, int]], after: list[tuple[int, int]]
) -> None:
    original = Sequence()
    for key in before:
        original.see(*key)
    copied = original.copy()
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(original), type=Sequence)
    answers = [original.see(*key) for key in after]
    assert [copied.see(*key) for key in after] == answers
    assert [decoded.see(*key) for key in after] == answers


def test_next_message_of_the_current_boot_is_always_the_same_answer() -> None:
    sequence = _started(5)
    assert sequence.see(1, 6) is NEW
    assert sequence.see(1, 7, replay=True) is NEW


def test_first_message_of_all_is_the_baseline_and_a_restart_begins_at_0() -> None:
    sequence = Sequence()
    assert sequence.see(1, 40) == Seen("new")
    assert sequence.see(1, 39).what == "unknown"
    assert sequence.see(2, 3) == Seen("new", new_boot=True, gap=(0, 2))
    assert _missing(sequence, 2) == [(0, 2)]
    assert sequence.see(1, 41) == Seen("new", older_boot=True)
    assert sequence.boots[0].boot == 2, "it stays the current one"


def test_after_a_crash_the_next_message_is_a_baseline_and_what_is_sent_again_is_known() -> None:
    sequence = _started(0, 1, 5)
    sequence.after_crash()
    assert sequence.expect(1, 90) is None, "the state may have overtaken the messages that are sent again"
    assert sequence.see(1, 5).what == "duplicate"
    assert sequence.see(1, 3).what == "filled"
    assert sequence.see(1, 50, replay=True).what == "unknown"
    assert sequence.see(1, 70) == Seen("new")
    assert _missing(sequence) == [(2, 2), (4, 4)]
    assert sequence.see(1, 50).what == "unknown"
    assert sequence.see(1, 72).gap == (71, 71)


def test_after_a_crash_a_new_boot_is_a_baseline_too() -> None:
    sequence = _started(0, 1)
    sequence.after_crash()
    assert sequence.see(2, 30) == Seen("new", new_boot=True)
    assert _missing(sequence, 2) == []


def test_a_device_that_numbers_anew_is_told_from_a_message_sent_again_by_its_later_time() -> None:
    sequence = _started(*range(10))
    assert sequence.see(1, 4, 4000).what == "duplicate"
    assert sequence.see(1, 4, 20_000, replay=True).what == "duplicate"
    assert sequence.see(1, 4, 20_001).what == "back"
    assert sequence.see(1, 4, 20_001).what == "duplicate", "that message once more"
    assert sequence.see(1, 5, 20_002).what == "back"


def test_a_lost_end_is_learnt_from_the_devices_own_count() -> None:
    sequence = _started(0, 1, 2)
    assert sequence.expect(1, 3) is None
    assert sequence.expect(9, 100) is None, "a boot nothing was seen of"
    assert sequence.expect(1, 6) == (3, 5)
    assert sequence.see(1, 3) == Seen("filled")
    assert sequence.see(1, 6) is NEW
    assert _missing(sequence) == [(4, 5)]


def test_a_replay_of_a_boot_that_is_not_remembered_is_no_restart() -> None:
    sequence = _started(0)
    assert sequence.see(77, 5, replay=True) == Seen("unknown")
    assert [boot.boot for boot in sequence.boots] == [1]


def test_only_the_latest_boots_are_remembered_and_what_misses_of_others_is_given_up() -> None:
    sequence = _started(0, 10)
    for boot in range(2, BOOTS + 3):
        sequence.see(boot, 0)
    assert [boot.boot for boot in sequence.boots] == [6, 5, 4, 3]
    assert sequence.forgotten == 9


def test_what_is_left_of_a_hole_counts_as_asked_for_once_and_is_looked_at_anew() -> None:
    sequence = _started(0, 10)
    hole = sequence.boots[0].holes[0]
    hole.tries, hole.due_s = 5, 99.0
    assert sequence.see(1, 4).asked
    assert [(h.first, h.last, h.tries, h.due_s) for h in sequence.boots[0].holes] == [
        (1, 3, 1, 0.0),
        (5, 9, 1, 0.0),
    ]
