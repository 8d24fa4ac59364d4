"""The quarantine on disk: ``quarantine.json`` in the user's folder, shared by all processes."""

from __future__ import annotations

import logging
import time
from threading import Lock
from typing import TYPE_CHECKING, Final

from quantmux.registry.user_folder import user_folder
from quantmux.runtime.kept_file import KeptFile, Row
from quantmux.runtime.quarantine import Key, Quarantine, Quarantined

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

_log: Final = logging.getLogger("quantmux.build")


def quarantine_path() -> Path:
    """Give the file; it need not exist."""
    return user_folder() / "quarantine.json"


class QuarantineFile:
    """A `Store` in a file. Nothing about the file ever raises; see `KeptFile`.

    Args:
        path: Gives the file.
    """

    def __init__(self, path: Callable[[], Path] = quarantine_path) -> None:
        self.file = KeptFile(path, _log, "the quarantine")

    def read(self) -> tuple[Quarantined, ...]:
        """Give the entries, the oldest first; rows that are none are left out."""
        return tuple(sorted(_entries(self.file.read()), key=lambda e: e.since))

    def change(self, put: Iterable[Quarantined], drop: Iterable[Key]) -> bool:
        """Lay entries over those in the file and drop others, and what has expired."""
        new, gone = {entry.key: entry for entry in put}, set(drop)

        def merged(rows: list[Row]) -> list[Row]:
            now = time.time()
            kept = {entry.key: entry for entry in _entries(rows) if entry.key not in gone}
            kept.update(new)
            held = [e for e in kept.values() if e.expires is None or e.expires > now]
            return [entry.to_dict() for entry in held]

        return self.file.update(merged)

    def stamp(self) -> object:
        """Give what changes with the file."""
        return self.file.stamp()

    @property
    def problem(self) -> str:
        """Why the file cannot be used, one line; "" when it can."""
        return self.file.problem


def _entries(rows: list[Row]) -> list[Quarantined]:
    found: list[Quarantined] = []
    for row in rows:
        try:
            found.append(Quarantined.of_dict(row))
        except (KeyError, TypeError, ValueError, OverflowError):
            _log.warning("a row of the quarantine is none: %s", str(row)[:200])
    return found


_lock: Final = Lock()
_store: Final = QuarantineFile()
_default: list[Quarantine] = []


def default_quarantine() -> Quarantine:
    """Give the quarantine of this process, kept in the user's folder."""
    with _lock:
        if not _default:
            _default.append(Quarantine(_store))
        return _default[0]


def quarantine_problem() -> str:
    """Say why the quarantine of this process is kept in memory only; "" when it is on disk."""
    return _store.problem
