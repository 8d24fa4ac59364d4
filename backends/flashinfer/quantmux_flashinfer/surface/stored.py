"""What was read, kept in the user's folder: files that have not changed are not parsed again."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from quantmux.registry.user_folder import user_folder
from quantmux_flashinfer.surface.declared import Surface

if TYPE_CHECKING:
    from collections.abc import Iterable

_READER: Final = ("declared.py", "reader.py", "sources.py", "stored.py")
"""The files that decide what is read; an answer of other ones does not count."""


def load(folder: Path, functions: Iterable[str]) -> Surface | None:
    """Give what was kept of a release; None where it does not hold. Never raises.

    It holds for these functions, for the files it was read from as they are now, and for the code
    that read them.
    """
    try:
        data: dict[str, Any] = json.loads(_file(folder).read_text(encoding="utf-8"))
        if data["folder"] != str(folder) or data["reader"] != reader_digest():
            return None
        if any(_stamp(Path(name)) != tuple(stamp) for name, stamp in data["files"].items()):
            return None
        surface = Surface.from_dict(data["surface"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return surface if set(functions) <= set(surface.functions) else None


def save(folder: Path, surface: Surface, files: Iterable[Path]) -> None:
    """Keep what was read; a folder that cannot be written costs the next process 0.1 s."""
    stamps = {str(file): _stamp(file) for file in files}
    if None in stamps.values():
        return
    with suppress(OSError):
        data = {
            "folder": str(folder),
            "reader": reader_digest(),
            "files": stamps,
            "surface": surface.to_dict(),
        }
        _write(_file(folder), json.dumps(data))


def reader_digest() -> str:
    """Give a digest of the code that reads releases."""
    here = Path(__file__).parent
    content = b"".join((here / name).read_bytes() for name in _READER)
    return hashlib.sha256(content).hexdigest()[:16]


def _write(file: Path, text: str) -> None:
    """Write a file as a whole: who reads it meanwhile sees the old one or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f"{file.name}.{uuid4().hex}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(file)
    except OSError:
        with suppress(OSError):
            beside.unlink()


def _file(folder: Path) -> Path:
    key = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return user_folder() / "flashinfer" / f"surface-{key}.json"


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns
