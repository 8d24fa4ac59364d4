"""KeptFile: a small JSON file in the user's folder that several processes read and write.

It remembers what is only worth remembering, so nothing about it may ever fail a caller: a folder
that cannot be written, a full disk, a broken file or a lock that is never given back cost what
would have been kept, and one WARNING.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable
from threading import RLock
from typing import TYPE_CHECKING, Any, Final

from quantmux.registry.row_files import write_whole

if TYPE_CHECKING:
    import logging
    from pathlib import Path

SCHEMA: Final = 1
"""Number of the file format: ``{"schema": 1, "rows": [...]}``."""

LOCK_S: Final = 2.0
"""Seconds that a writer waits for others."""

_LOCK_AGAIN_S: Final = 60.0
"""Seconds for which a lock that was not given back is not waited for again."""

_ASIDE: Final = ".bad"

Row = dict[str, Any]
Stamp = tuple[int, int, int]


class KeptFile:
    """Rows in one file, read without a lock and written whole, under one.

    Args:
        path: Gives the file; asked each time, since the user's folder may be another one later.
        log: Where warnings go.
        title: What the file keeps, for warnings: ``the quarantine``.
    """

    def __init__(self, path: Callable[[], Path], log: logging.Logger, title: str) -> None:
        self._path = path
        self._log = log
        self._title = title
        self._lock = RLock()
        self._told: set[tuple[Path, str]] = set()
        self._lock_failed: float | None = None
        self.problem = ""
        """Why the file is not as it should be, one line; "" when it is."""

    @property
    def path(self) -> Path:
        """The file; it need not exist."""
        return self._path()

    def stamp(self) -> tuple[Path, Stamp | None]:
        """Give what changes with the file's content; cheap."""
        path = self._path()
        try:
            stat = path.stat()
        except OSError:
            return path, None
        return path, (stat.st_mtime_ns, stat.st_size, stat.st_ino)

    def read(self) -> list[Row]:
        """Give the rows that can be trusted; none when there is no file. Never raises."""
        with self._lock:
            return self._read(self._path())[0]

    def update(self, change: Callable[[list[Row]], Iterable[Row]]) -> bool:
        """Replace the rows by what ``change`` makes of those in the file; tell whether it is kept.

        Never raises for the file's sake.
        """
        with self._lock:
            path = self._path()
            try:
                return self._update(path, change)
            except (OSError, NotImplementedError) as error:  # the latter: no locks on this disk
                self._warn(path, f"cannot be written: {_reason(error)}")
                return False

    def _update(self, path: Path, change: Callable[[list[Row]], Iterable[Row]]) -> bool:
        # imported here: most processes never write
        from filelock import FileLock, Timeout

        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=self._patience())
        try:
            lock.acquire()
        except Timeout:
            self._lock_failed = time.monotonic()
            self._warn(path, f"is locked by another process for more than {LOCK_S:g} s")
            return False
        try:
            rows, is_ours = self._read(path)
            if not is_ours:
                return False
            if self.problem:
                _keep_aside(path)
            data = {"schema": SCHEMA, "rows": list(change(rows))}
            write_whole(path, json.dumps(data, indent=1, allow_nan=False) + "\n")
        finally:
            lock.release()
        self.problem = ""
        return True

    def _patience(self) -> float:
        """Give how long to wait: who waited in vain a moment ago does not wait again."""
        failed = self._lock_failed
        if failed is not None and time.monotonic() - failed < _LOCK_AGAIN_S:
            return 0.0
        self._lock_failed = None
        return LOCK_S

    def _read(self, path: Path) -> tuple[list[Row], bool]:
        """Give the rows, and whether this version may write the file."""
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            self.problem = ""
            return [], True
        except UnicodeDecodeError:
            self._warn_broken(path, "is no text")
            return [], True
        except OSError as error:
            self._warn(path, f"cannot be read: {_reason(error)}")
            return [], False
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            self._warn_broken(path, "is no JSON, perhaps cut short")
            return [], True
        schema = data.get("schema") if isinstance(data, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            # it belongs to a later version, which may be in use beside this one
            self._warn(path, f"is of schema {schema}, this version reads {SCHEMA}; it is left")
            return [], False
        if schema != SCHEMA or not isinstance(data.get("rows"), list):
            self._warn_broken(path, 'is not {"schema": 1, "rows": [...]}')
            return [], True
        self.problem = ""
        return [row for row in data["rows"] if isinstance(row, dict)], True

    def _warn(self, path: Path, problem: str, outcome: str = "is kept in memory only") -> None:
        self.problem = f"{path} {problem}"
        if (path, problem) not in self._told:
            self._told.add((path, problem))
            self._log.warning("%s %s: %s", self._title, outcome, self.problem)

    def _warn_broken(self, path: Path, problem: str) -> None:
        self._warn(path, f"{problem} (to be kept as {path.name}{_ASIDE})", "starts anew")


def _keep_aside(path: Path) -> None:
    """Copy a broken file beside itself as ``<name>.bad``, the first time."""
    aside = path.with_name(path.name + _ASIDE)
    if path.exists() and not aside.exists():
        shutil.copyfile(path, aside)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
