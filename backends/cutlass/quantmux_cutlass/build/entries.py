"""A library in a folder, beside the record that proves it whole.

One folder per library, ``<unit>-<target>-<source digest>-<key>/``::

    library.so           stripped
    record.json          who made it of what, its size and SHA-256
    sm_90a.cubin         its machine code, one file for each part of the target

The folder is made elsewhere on the same disk and renamed into place, so it is there as a whole or
not at all, on a network disk without locks too. A cache is a folder of such folders, and so is a
folder of prebuilt libraries: one can be copied into the other.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import uuid
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from quantmux_cutlass import abi

if TYPE_CHECKING:
    from pathlib import Path

    from quantmux_cutlass.build.keys import Key
    from quantmux_cutlass.units import Unit

LIBRARY: Final = "library.so"
RECORD: Final = "record.json"
SCHEMA: Final = 1
_TARGETS: Final = re.compile(rb";targets=([0-9af+]+);")
_SHORT: Final = 16
"""Hex digits of a digest in a folder's name; the record and the library hold all 64."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a library.

    Attributes:
        unit: Name of its unit.
        target: What it was compiled for.
        abi: Version of the C ABI.
        digest: What it says of itself: source digest, dot, key.
        bytes: Size of the file.
        sha256: Of the file.
        nvcc: Version of the compiler.
        host: Version line of the host compiler.
        cutlass: Version of the CUTLASS headers, "" where it needs none.
        seconds: Wall seconds that nvcc took.
        cpu_seconds: CPU seconds that it took.
        memory_mib: Memory of its largest process, MiB.
        made: When, in UTC.
    """

    unit: str
    target: str
    abi: int
    digest: str
    bytes: int
    sha256: str
    nvcc: str = ""
    host: str = ""
    cutlass: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory_mib: int = 0
    made: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One library in its folder.

    Attributes:
        folder: The folder.
        record: What its record says.
    """

    folder: Path
    record: Record

    @property
    def library(self) -> Path:
        """The shared library."""
        return self.folder / LIBRARY

    def code(self, part: str) -> Path | None:
        """Give the file of machine code for one part of the target, ``90a``; None without it."""
        file = self.folder / f"sm_{part}.cubin"
        return file if file.is_file() else None

    def problem(self) -> tuple[str, str] | None:
        """Give code and reason why the file is not the one of the record; None when it is.

        The whole file is read, a millisecond: loading a library that was cut short kills the
        process with a bus error, so it has to be found out before. And a wrong one that was
        loaded would stay: the next of the same path is taken for it.
        """
        try:
            data = self.library.read_bytes()
        except OSError as error:
            return "truncated", f"{self.library}: {error.strerror or error}"
        if len(data) != self.record.bytes:
            return "truncated", f"{len(data)} bytes, {self.record.bytes} were written"
        if hashlib.sha256(data).hexdigest() != self.record.sha256:
            return "truncated", "the bytes are not those that were written"
        if self.record.abi != abi.VERSION:
            return "abi", f"ABI version {self.record.abi}, this quantmux speaks {abi.VERSION}"
        return self._other(data)

    def _other(self, data: bytes) -> tuple[str, str] | None:
        """Look for what the library would say of itself: the texts lie in it as they are."""
        targets = _TARGETS.search(data)
        found = targets[1].decode() if targets is not None else "none"
        if targets is not None and found != self.record.target:
            return "wrong_target", f"it is compiled for {found}, needs {self.record.target}"
        if self.record.digest.encode() not in data:
            return "digest", "it holds another digest than its record"
        return None


def folder_name(unit: Unit, target: str, key: Key) -> str:
    """Give the name of a library's folder."""
    return f"{unit.name}-{target}-{key.source[:_SHORT]}-{key.build[:_SHORT]}"


def find_entry(root: Path, unit: Unit, target: str, key: Key) -> Entry | None:
    """Give the library in a folder of libraries, None when it is not there.

    Without a key of the compilers (`Key.build` is ""), any library of the same sources serves, the
    newest first: that is how a host without a compiler uses what another one has built.

    Args:
        root: A cache, or a folder of prebuilt libraries.
        unit: What the library was compiled from.
        target: What it was compiled for.
        key: Its digests.
    """
    if key.build:
        return _entry(root / folder_name(unit, target, key), key)
    start = f"{unit.name}-{target}-{key.source[:_SHORT]}-"
    try:
        folders = [item for item in root.iterdir() if item.name.startswith(start)]
    except OSError:
        return None
    entries = [entry for folder in folders if (entry := _entry(folder, key)) is not None]
    return max(entries, key=lambda entry: entry.record.made, default=None)


def write_record(folder: Path, record: Record) -> None:
    """Write the record into a folder that is not published yet.

    Raises:
        OSError: It could not be written.
    """
    text = json.dumps({"schema": SCHEMA, **asdict(record)}, indent=1)
    with (folder / RECORD).open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def publish(made: Path, place: Path, *, replace: bool = False) -> bool:
    """Rename a finished folder into its place; tell whether it is the one that stands there now.

    Where another process was faster, its folder stays: both hold the same.

    Args:
        made: The folder, on the same disk as the place.
        place: Its name among the libraries.
        replace: Take the place of what stands there.

    Raises:
        OSError: The disk refuses.
    """
    if replace:
        discard(place)
    try:
        made.rename(place)
    except OSError:
        if place.is_dir():
            return False
        raise
    return True


def discard(place: Path) -> None:
    """Take a folder out of its place at once, then delete it. Never raises.

    A process that has loaded the library keeps it: the file lives until nobody has it open.
    """
    aside = place.with_name(f".gone-{uuid.uuid4().hex}")
    with contextlib.suppress(OSError):
        place.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _entry(folder: Path, key: Key) -> Entry | None:
    record = _record(folder / RECORD)
    if record is None:
        return None
    source, _, build = record.digest.partition(".")
    fits = source == key.source and (not key.build or build == key.build)
    return Entry(folder, record) if fits else None


def _record(path: Path) -> Record | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        return None
    names = {field.name for field in fields(Record)}
    known: dict[str, Any] = {name: value for name, value in data.items() if name in names}
    try:
        record = Record(**known)
    except TypeError:  # one that every record has is not there
        return None
    values: tuple[Any, ...] = (record.digest, record.sha256, record.made)
    return record if all(isinstance(value, str) for value in values) else None
