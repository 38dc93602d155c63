"""What the editor remembers for its users, and which node sets are switched off; in a file of the state directory."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any, Final

from voltflow import kept_file

log = logging.getLogger(__name__)

FILE: Final = "editor.json"
_VERSION: Final = 1
_ANYBODY: Final = ""
"""Whose settings they are where nobody has to log in; no user has that name."""
_LIMIT_BYTES: Final = 1_000_000


class Preferences:
    """Settings by user, and the ids of the node sets that are switched off. Its methods may be called from any thread."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._lock = threading.Lock()
        self._document = self._load()

    def settings_of(self, username: str | None) -> dict[str, Any]:
        """What the editor has kept for the user."""
        return dict(self._document["users"].get(username or _ANYBODY, {}))

    def merge(self, username: str | None, changes: dict[str, Any]) -> None:
        """Keep more; a value of null forgets one. Raises OSError, and ValueError where it is too much."""
        with self._lock:
            users = dict(self._document["users"])
            merged = _merged(users.get(username or _ANYBODY, {}), changes)
            if len(repr(merged)) > _LIMIT_BYTES:
                raise ValueError(f"settings of a user may have {_LIMIT_BYTES} bytes")
            users[username or _ANYBODY] = merged
            self._save({**self._document, "users": users})

    @property
    def disabled(self) -> frozenset[str]:
        return frozenset(self._document["disabled"])

    def set_enabled(self, set_ids: list[str], *, enabled: bool) -> None:
        """Raises OSError."""
        with self._lock:
            disabled = self.disabled - set(set_ids) if enabled else self.disabled | set(set_ids)
            self._save({**self._document, "disabled": sorted(disabled)})

    def _load(self) -> dict[str, Any]:
        empty: dict[str, Any] = {"users": {}, "disabled": []}
        try:
            found = kept_file.read_versioned(self._file, ())
            return {"users": dict(found["users"]), "disabled": [str(item) for item in found["disabled"]]}
        except FileNotFoundError:
            return empty
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("'%s' cannot be used (%s): the editor's settings are the defaults", self._file, error)
            return empty

    def _save(self, document: dict[str, Any]) -> None:
        kept_file.write_versioned(self._file, document, _VERSION)
        self._document = document


def _merged(old: Any, new: dict[str, Any]) -> dict[str, Any]:
    result = dict(old) if isinstance(old, dict) else {}
    for name, value in new.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merged(result.get(name), value) if isinstance(value, dict) else value
    return result
