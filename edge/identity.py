"""Whether the messages of a pack come from one device that counts on: what raises an alert, and when it is calm again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from voltflow.sequence import Seen, Sequence

CALM_MS: Final = 600_000
"""So much device time without another sign clears the alert, and forgets the signs that were not enough for one."""
SWITCHES: Final = 2
"""Turns back to an older boot that make two devices: one may be a message that the network held up."""

Code = Literal["identity_conflict", "seq_back"]


class Condition(NamedTuple):
    """What the alert says."""

    severity: Literal["warning", "critical"]
    text: str


CONDITIONS: Final[dict[Code, Condition]] = {
    "identity_conflict": Condition(
        "critical", "two devices send as this pack by turns: find the one with the wrong name"
    ),
    "seq_back": Condition(
        "warning", "the device numbers its messages anew without a new boot, or another one sends in its name"
    ),
}


class Identity:
    """What is watched of one pack. `calm` has, by code, the boot and device time from which on there was no further sign."""

    def __init__(self, raised: Iterator[Code] | tuple[Code, ...] = ()) -> None:
        self.calm: dict[Code, tuple[int, int] | None] = dict.fromkeys(raised)
        self._switches = 0
        self._next = -1

    def changes(
        self, seen: Seen, sequence: Sequence, boot: int, ts_ms: int
    ) -> Iterator[tuple[Code, Literal["raised", "cleared"]]]:
        """What a message that is no replay and no duplicate changes; `seen` is what it was to `sequence`."""
        sign: Code | None = None
        if seen.what == "back":
            sign = "seq_back"
            yield sign, "raised"
        elif seen.older_boot:
            sign = "identity_conflict"
            if self._is_switch(sequence):
                yield sign, "raised"
        if sign:
            self.calm[sign] = None
        for code, since in list(self.calm.items()):
            if code == sign or (since is not None and since[0] != boot) or since is None:
                self.calm[code] = (boot, ts_ms)
            elif ts_ms - since[1] >= CALM_MS:
                del self.calm[code]
                self._switches = 0 if code == "identity_conflict" else self._switches
                yield code, "cleared"

    def _is_switch(self, sequence: Sequence) -> bool:
        """Whether it came after messages of the current boot, and not for the first time."""
        current = sequence.boots[0]
        if current.next != self._next:
            self._next = current.next
            self._switches += 1
        return self._switches >= SWITCHES
