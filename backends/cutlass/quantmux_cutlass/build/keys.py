"""Which library it is: digests over everything that decides the machine code.

Two digests, for two questions. The *source digest* covers what the package says: the text of the
source and of the headers of ours that it reaches, macros, target, flags, ABI version. A prebuilt
library is found by it, whatever it was compiled with. The *key* adds the compilers and the CUTLASS
headers; what this machine builds itself is found by it, so a new nvcc means new libraries. Both
are compiled into the library, which is therefore found out under a wrong name.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantmux.errors import BuildError
from quantmux_cutlass import abi
from quantmux_cutlass.build.command import flags

if TYPE_CHECKING:
    from quantmux_cutlass.build.toolchain import Toolchain
    from quantmux_cutlass.units import Unit

PACKAGE: Final = Path(__file__).resolve().parent.parent
"""The folder that `Unit.source` is relative to."""

CSRC: Final = PACKAGE / "csrc"
"""The folder of the headers of ours."""

_INCLUDE: Final = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"', re.MULTILINE)
_Stamp = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Key:
    """Both digests of one library.

    Attributes:
        source: Of what the package says.
        build: Of that, the compilers and the CUTLASS headers; "" where there is no compiler.
    """

    source: str
    build: str

    @property
    def text(self) -> str:
        """What is compiled into the library as its digest."""
        return f"{self.source}.{self.build}"


@dataclass(frozen=True, slots=True)
class _File:
    stamp: _Stamp
    text: bytes
    includes: tuple[str, ...]


_lock: Final = threading.Lock()
_files: Final[dict[str, _File]] = {}
_sources: Final[dict[tuple[Unit, str], tuple[tuple[_Stamp, ...], str]]] = {}


def key_of(unit: Unit, target: str, toolchain: Toolchain | None) -> Key:
    """Give the digests of the library of one unit for one target.

    Args:
        unit: What is compiled.
        target: One of its targets.
        toolchain: What it is compiled with; None gives the source digest alone.

    Raises:
        BuildError: A source cannot be read (code ``sources``).
    """
    source = source_digest(unit, target)
    if toolchain is None:
        return Key(source, "")
    parts = [source, toolchain.nvcc_version, toolchain.host]
    parts += [f"{name}={value}" for name, value in toolchain.settings]
    if unit.cutlass:  # without it the headers are not on the include path
        parts += [toolchain.headers_version or "", toolchain.headers_digest]
    return Key(source, _digest("\0".join(parts).encode()))


def source_digest(unit: Unit, target: str) -> str:
    """Give the digest of what the package says of a library; quick when no file has changed.

    Raises:
        BuildError: A source cannot be read (code ``sources``).
    """
    with _lock:
        known = _sources.get((unit, target))
        if known is not None and all(_stamp(stamp[0]) == stamp for stamp in known[0]):
            return known[1]
        closure = _closure(PACKAGE / unit.source)
        parts = [unit.name, unit.source, target, f"abi {abi.VERSION}", *flags()]
        parts += [f"{name}={value}" for name, value in unit.macros]
        content = hashlib.sha256("\0".join(parts).encode())
        for file in closure:
            place = Path(file.stamp[0])
            name = place.relative_to(PACKAGE) if place.is_relative_to(PACKAGE) else place.name
            content.update(f"\0{name}\0".encode())
            content.update(file.text)
        digest = content.hexdigest()
        _sources[unit, target] = tuple(file.stamp for file in closure), digest
        return digest


def sources_of(unit: Unit) -> tuple[Path, ...]:
    """Give a unit's source and every header of ours that it reaches, the source first.

    Raises:
        BuildError: A source cannot be read (code ``sources``).
    """
    with _lock:
        return tuple(Path(file.stamp[0]) for file in _closure(PACKAGE / unit.source))


def _closure(source: Path) -> list[_File]:
    found: dict[str, _File] = {}
    todo = [source.resolve()]
    while todo:
        path = todo.pop()
        if str(path) in found:
            continue
        file = _read(path)
        found[str(path)] = file
        for name in file.includes:
            inside = next((p for p in (path.parent / name, CSRC / name) if p.is_file()), None)
            if inside is not None:  # else it is CUTLASS's, and in the digest of its tree
                todo.append(inside.resolve())
    first, *rest = found
    return [found[first], *(found[name] for name in sorted(rest))]


def _read(path: Path) -> _File:
    stamp = _stamp(str(path))
    known = _files.get(str(path))
    if known is not None and known.stamp == stamp:
        return known
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BuildError(
            f"a source of the CUTLASS backend cannot be read: {path.name}",
            facts=[f"{path}: {error.strerror or error}"],
            hint="reinstall quantmux",
            code="sources",
        ) from error
    includes = tuple(_INCLUDE.findall(text.decode("utf-8", errors="replace")))
    file = _File(stamp, text, includes)
    _files[str(path)] = file
    return file


def _stamp(path: str) -> _Stamp:
    try:
        stat = os.stat(path)  # noqa: PTH116 - asked a dozen times per library and selection
    except OSError:
        return (path, -1, -1)
    return (path, stat.st_size, stat.st_mtime_ns)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
