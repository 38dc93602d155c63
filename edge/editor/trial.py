"""Whether a deployed flow lets the gateway live: a new flow is on trial until it has run for a minute.

A run that ends within that time without having been told to is a crash; after three of them the gateway starts the flow
before it. What is remembered stands in a small file beside the flow, which is gone when the trial has been passed.
"""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path
from typing import Any, Final

from voltflow import kept_file

log = logging.getLogger(__name__)

TRIAL_S: Final = 60.0
CRASHES: Final = 3
_VERSION: Final = 1


class Trial:
    """The trial of the flow that a file holds, by its `rev`."""

    def __init__(self, flow_path: Path) -> None:
        self._path = flow_path.with_name(f".{flow_path.name}.trial")
        self.rev = ""
        """Of the flow on trial; empty: none is."""
        self.crashes = 0
        self._running = False

    def start(self, rev: str) -> None:
        """A run is to begin with what the file holds; counts the run before where that did not end well."""
        known = self._read()
        if known.get("rev") != rev:
            self.passed()
            return
        self.rev, self.crashes = rev, int(known.get("crashes", 0))
        if known.get("running") and self.crashes < CRASHES:
            self.crashes += 1
            log.warning(
                "the run before ended within %g s of a deploy without having been told to (%d of %d)",
                TRIAL_S, self.crashes, CRASHES,
            )  # fmt: skip

    def begin(self, *, running: bool) -> None:
        """The run begins; `running`: with this flow, so that a crash of it is one of the flow's."""
        if self.rev:
            self._write(running=running)

    @property
    def failed(self) -> bool:
        """Whether the flow has ended the gateway too often."""
        return self.crashes >= CRASHES

    def deployed(self, rev: str) -> None:
        """Another flow is on trial from now on."""
        self.rev, self.crashes = rev, 0
        self._write(running=True)

    def passed(self) -> None:
        """It runs well, or there is nothing to try."""
        self.rev, self.crashes = "", 0
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def ended(self) -> None:
        """The run ends because it was told to."""
        if self.rev and self._running:
            self._write(running=False)

    def _read(self) -> dict[str, Any]:
        try:
            found = kept_file.read_versioned(self._path, ())
            return {
                "crashes": int(found["crashes"]),
                "rev": str(found["rev"]),
                "running": bool(found["running"]),
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning(
                "'%s' cannot be used (%s): crashes of the flow are counted from none", self._path, error
            )
            return {}

    def _write(self, *, running: bool) -> None:
        self._running = running
        document = {"rev": self.rev, "crashes": self.crashes, "running": running, "version": _VERSION}
        try:
            kept_file.write(self._path, json.dumps(document).encode())
        except OSError as error:
            log.warning("'%s' cannot be written (%s): crashes of the flow are not counted", self._path, error)
