"""The release that is installed here: found as files, read once for each process."""

from __future__ import annotations

import threading
from dataclasses import replace
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantmux.capability.needs import package_version
from quantmux_flashinfer.surface import stored
from quantmux_flashinfer.surface.reader import read_surface

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantmux_flashinfer.surface.declared import Surface

DISTRIBUTION: Final = "flashinfer-python"

_lock: Final = threading.Lock()
_known: Final[dict[Path, Surface]] = {}
_folder: Final[list[Path | None]] = []


def installed_folder() -> Path | None:
    """Give the folder of the installed package, None without one. Imports nothing.

    A bare folder called flashinfer on the path is none: the library has an ``__init__.py``.
    """
    if not _folder:
        _folder.append(_look())
    return _folder[0]


def installed_surface(functions: Iterable[str]) -> Surface | None:
    """Give what the installed release offers of these functions; None where none is installed.

    The first question of a process reads the library's files (0.1 s), or what an earlier process
    kept of them (1 ms). Never raises, and imports nothing of the library.
    """
    folder = installed_folder()
    if folder is None:
        return None
    asked = frozenset(functions)
    with _lock:
        known = _known.get(folder)
        if known is None or not asked <= known.functions.keys():
            before = frozenset(known.functions) if known is not None else frozenset()
            known = _known[folder] = _surface(folder, asked | before)
        return known


def forget() -> None:
    """Look again at the next question, after something was installed."""
    with _lock:
        _known.clear()
        _folder.clear()


def _surface(folder: Path, functions: frozenset[str]) -> Surface:
    kept = stored.load(folder, functions)
    if kept is not None:
        return kept
    surface, files = read_surface(folder, functions)
    if not surface.version:  # a checkout names none; its metadata may
        surface = replace(surface, version=package_version(DISTRIBUTION) or "")
    stored.save(folder, surface, files)
    return surface


def _look() -> Path | None:
    try:
        spec = util.find_spec("flashinfer")
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin)
    return file.parent if file.name == "__init__.py" and file.is_file() else None
