"""Remembers over restarts which subscriptions the broker's session has, so that those no longer wanted are dropped."""

from __future__ import annotations

import json
import logging
from pathlib import Path

log = logging.getLogger("voltflow.mqtt")


class SessionMemory:
    """The topic filters of a session in a file; without a file nothing is remembered.

    Written before a filter is subscribed and after it is unsubscribed, so that no crash leaves one behind.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def filters(self) -> set[str]:
        """What the session may have."""
        if self._path is None:
            return set()
        try:
            return set(json.loads(self._path.read_text()))
        except FileNotFoundError:
            return set()
        except (OSError, ValueError) as error:
            log.warning(
                "cannot read %s, subscriptions of earlier runs are not dropped: %s", self._path, error
            )
            return set()

    def remember(self, filters: set[str]) -> None:
        if self._path is None or self.filters() == filters:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text(json.dumps(sorted(filters)))
            temporary.replace(self._path)
        except OSError as error:  # a full disk is no reason to be without a broker
            log.warning(
                "cannot write %s, subscriptions of this run may not be dropped later: %s", self._path, error
            )
