"""A digest of the CUTLASS header tree: read once, then remembered by names, sizes and times.

The tree is 27 MB in a thousand files. Reading it takes some tenths of a second, listing it some
milliseconds, so the digest of the contents is kept under a digest of the listing.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from typing import TYPE_CHECKING, Final

from quantmux.registry.row_files import write_whole
from quantmux_cutlass.build.settings import cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDERS: Final = ("cute", "cutlass")
"""What of an include folder is CUTLASS; the folder may be ``/usr/include``."""

_KEPT: Final = 8
_lock: Final = threading.Lock()
_known: Final[dict[str, str]] = {}


def header_digest(include: Path) -> str:
    """Give the digest of the headers below a folder: names and contents. Never raises.

    A tree that does not change during the process is listed once.

    Args:
        include: The folder that holds ``cutlass`` and ``cute``.
    """
    with _lock:
        place = str(include)
        if place not in _known:
            _known[place] = _digest(include)
        return _known[place]


def forget() -> None:
    """List the trees again at the next question, after headers were installed."""
    with _lock:
        _known.clear()


def _digest(include: Path) -> str:
    files = sorted(_files(include))
    listing = hashlib.sha256()
    for name, size, mtime in files:
        listing.update(f"{name}\0{size}\0{mtime}\n".encode())
    stamp = listing.hexdigest()
    memory = cache_folder() / "headers.json"
    kept = _read(memory)
    found = kept.get(stamp)
    if found is not None:
        return found
    content = hashlib.sha256()
    for name, _, _ in files:
        content.update(f"{name}\0".encode())
        try:
            content.update((include / name).read_bytes())
        except OSError as error:
            content.update(f"unreadable: {error.errno}".encode())
    digest = content.hexdigest()
    recent = dict(list(kept.items())[-(_KEPT - 1) :])
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_whole(memory, json.dumps({**recent, stamp: digest}, indent=1) + "\n")
    except OSError:
        pass  # it is only a memory: the next process reads the headers again
    return digest


def _files(include: Path) -> Iterator[tuple[str, int, int]]:
    for top in FOLDERS:
        for folder, _, names in os.walk(include / top):
            for name in names:
                path = os.path.join(folder, name)  # noqa: PTH118 - a thousand paths, no objects
                try:
                    stat = os.stat(path)  # noqa: PTH116
                except OSError:
                    continue
                yield os.path.relpath(path, include), stat.st_size, stat.st_mtime_ns


def _read(path: Path) -> dict[str, str]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(data, dict):
        return {}
    return {k: v for k, v in data.items() if isinstance(k, str) and isinstance(v, str)}
