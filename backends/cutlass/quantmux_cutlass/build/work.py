"""Folders to build in: on the cache's disk, gone afterwards, swept when their owner was killed."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER: Final = "work"
_OWNER: Final = "owner.lock"
_OLD_S: Final = 3600.0
"""No build takes so long: a folder of this age has no owner, whatever its lock says."""

_WRITING_S: Final = 20.0
"""So long after it was made a folder may not hold its lock yet."""


@contextlib.contextmanager
def work_folder(cache: Path) -> Iterator[Path]:
    """Give an empty folder, and delete it with what was left in it.

    A lock in it is held until then; it is how others see that the owner lives.

    Raises:
        OSError: It cannot be made.
    """
    root = cache / FOLDER
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{platform.node() or 'host'}-{os.getpid()}-", dir=root))
    lock = FileLock(folder / _OWNER, thread_local=False)
    try:
        with contextlib.suppress(OSError, NotImplementedError, Timeout):
            lock.acquire(blocking=False)
        yield folder
    finally:
        lock.release(force=True)
        shutil.rmtree(folder, ignore_errors=True)


def sweep(cache: Path) -> None:
    """Delete what killed builds have left. Never raises."""
    for folder in _folders(cache / FOLDER):
        if _has_no_owner(folder):
            shutil.rmtree(folder, ignore_errors=True)
    for folder in _folders(cache):
        if folder.name.startswith(".gone-"):
            shutil.rmtree(folder, ignore_errors=True)


def _has_no_owner(folder: Path) -> bool:
    try:
        age = time.time() - folder.stat().st_mtime
    except OSError:
        return False
    if age > _OLD_S:
        return True
    host, _, rest = folder.name.rpartition("-")[0].rpartition("-")
    # on another host the lock may not tell, so only time does
    if host != (platform.node() or "host") or not rest.isdigit():
        return False
    if not (folder / _OWNER).exists():
        return age > _WRITING_S
    lock = FileLock(folder / _OWNER, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except (Timeout, OSError, NotImplementedError):
        return False
    lock.release(force=True)
    return not _alive(int(rest))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _folders(root: Path) -> list[Path]:
    try:
        return [item for item in root.iterdir() if item.is_dir()]
    except OSError:
        return []
