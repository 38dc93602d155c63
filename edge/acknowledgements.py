"""Which alerts somebody has seen to: who, when, with what note. Kept in a small file of their own, written at once: a
person's word does not wait for the next snapshot."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from edge.twin import TwinStore
from voltflow import kept_file
from voltflow.telemetry import Alert

log = logging.getLogger(__name__)

FILE: Final = "acknowledged.json"
KEPT: Final = 5000
"""At most, the newest; a name, a note and a key have some hundred bytes."""
_VERSION: Final = 1


class Acknowledgement(msgspec.Struct, frozen=True):
    """Who has seen to an alert and when (the gateway's clock)."""

    by: str
    at_ms: int
    note: str = ""


class AlertKey(NamedTuple):
    """What makes an alert another one: raised anew it has another `since_ms`."""

    fleet: str
    pack: str
    code: str
    since_ms: int

    @classmethod
    def of(cls, alert: Alert) -> AlertKey:
        return cls(alert.fleet, alert.pack, alert.code, alert.since_ms)

    @property
    def id(self) -> str:
        """For addresses: 16 hex digits.

        >>> AlertKey("depot", "P1", "cell_temp_critical", 1).id
        '9047b02955bc38b9'
        """
        return hashlib.sha256(json.dumps(self).encode()).hexdigest()[:16]


class _Kept(msgspec.Struct):
    fleet: str
    pack: str
    code: str
    since_ms: int
    by: str
    at_ms: int
    note: str = ""


class Acknowledgements:
    """Of the alerts of a store. Every method may be called from any thread; without a file they end with the program."""

    def __init__(self, store: TwinStore, file: Path | None) -> None:
        self._store, self._file = store, file
        self._lock = threading.Lock()
        self._known: dict[AlertKey, Acknowledgement] = {}

    def open(self) -> None:
        """Read the file, once the packs are there; one that cannot be used is said and left as it is until the next word."""
        if self._file is None:
            return
        try:
            entries = msgspec.convert(kept_file.read_versioned(self._file, ())["acknowledged"], list[_Kept])
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("'%s' cannot be used (%s): no alert is acknowledged", self._file, error)
            return
        self._known = {
            AlertKey(kept.fleet, kept.pack, kept.code, kept.since_ms): Acknowledgement(kept.by, kept.at_ms, kept.note)
            for kept in entries
        }  # fmt: skip
        for key in self._known:
            self._tell_twin(key)

    def of(self, alert: Alert) -> Acknowledgement | None:
        """Who has seen to it; None: nobody."""
        return self._known.get(AlertKey.of(alert))

    def add(self, alert: Alert, acknowledgement: Acknowledgement) -> None:
        """Note that somebody has; raises OSError where it cannot be kept, and then nobody has."""
        key = AlertKey.of(alert)
        with self._lock:
            others = {known: item for known, item in self._known.items() if known != key}
            self._replace({**others, key: acknowledgement})
            self._tell_twin(key)

    def remove(self, alert: Alert) -> None:
        """Take it back; one that is not there is no error. Raises OSError where that cannot be kept."""
        key = AlertKey.of(alert)
        with self._lock:
            if key in self._known:
                self._replace({known: item for known, item in self._known.items() if known != key})
                self._tell_twin(key, seen=False)

    def _replace(self, known: dict[AlertKey, Acknowledgement]) -> None:
        """What is of no alert that can still be asked for is forgotten."""
        shown = set(self._shown())
        kept = dict([item for item in known.items() if item[0] in shown][-KEPT:])
        if self._file is not None:
            entries = [{**key._asdict(), **msgspec.structs.asdict(item)} for key, item in kept.items()]
            kept_file.write_versioned(self._file, {"acknowledged": entries}, _VERSION)
        self._known = kept

    def _shown(self) -> Iterator[AlertKey]:
        for twin in list(self._store.packs):
            yield from map(AlertKey.of, list(twin.alerts.values()))
        yield from map(AlertKey.of, list(self._store.recent_alerts))

    def _tell_twin(self, key: AlertKey, *, seen: bool = True) -> None:
        """The twin's is replaced as a whole: the event loop reads it. An alert may be older than what is known of its pack."""
        twin = self._store.by_name.get((key.fleet, key.pack))
        if twin is not None:
            others = {code: since for code, since in twin.acknowledged.items() if code != key.code}
            twin.acknowledged = {**others, key.code: key.since_ms} if seen else others
