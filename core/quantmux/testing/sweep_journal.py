"""The journal of a sweep: one JSON object a line, so that what was answered survives its end.

The first line says what the answers are answers of; every other line is a cell with its outcome,
or a list of cells whose answers no longer count because they are asked anew. Of several lines of
one cell the last counts. A line that was cut off by the end of the process is dropped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from filelock import FileLock, Timeout

import quantmux
from quantmux._version import __version__
from quantmux.errors import ConfigError, QuantmuxError
from quantmux.registry.digest import kernel_digest
from quantmux.registry.ledger import versions_here
from quantmux.testing.worker_wire import encode, pack_outcome, unpack_outcome

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import BinaryIO

    from quantmux.capability.device import DeviceProfile
    from quantmux.registry.manager import Registry
    from quantmux.testing.cell import Cell, Outcome

SCHEMA: Final = 1
"""Number of this file format; a journal of another one is not read."""

NAME: Final = "journal.jsonl"
_BEGIN: Final = b'{"header":'
_SYNC: Final = 1.0
_ROOMS: Final = ("ops", "testing")
_NOT_ANSWERS: Final = ("sweep", "worker")  # how cells are run in processes changes no answer


@dataclass(slots=True)
class Kept:
    """What a journal holds.

    Attributes:
        header: Its first line.
        answers: Cell id → (stamp of the kernel that was asked, outcome).
        days: Cell id → day of its answer, ISO 8601.
        size: Bytes of the whole lines; what lies behind them was cut off.
    """

    header: dict[str, Any]
    answers: dict[str, tuple[str, Outcome]] = field(default_factory=dict)
    days: dict[str, str] = field(default_factory=dict)
    size: int = 0


class Journal:
    """Open for one sweep at a time; a context that closes it.

    Args:
        folder: Folder of the sweep; made when it does not exist.
        header: What the answers of this sweep are answers of, by `header_of`.
        resume: True takes the answers that are there and refuses a journal of other things; False
            asks everything anew; None takes them when they fit, and else begins a new journal.

    Raises:
        ConfigError: Another sweep is using it (code ``journal_busy``), it is of something else and
            ``resume`` is True, or it is no journal of ours (code ``journal``).
        QuantmuxError: The folder cannot be written.
    """

    def __init__(self, folder: Path, header: dict[str, Any], *, resume: bool | None) -> None:
        self.path = folder / NAME
        self.note = ""
        self._synced = time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / f".{NAME}.lock")
            self._lock.acquire(blocking=False)
        except Timeout:
            raise ConfigError(
                f"another sweep is writing into {folder}",
                hint="wait for it, or give this one a folder of its own: --out FOLDER",
                code="journal_busy",
            ) from None
        except OSError as error:
            raise _unwritable(folder, error) from error
        try:
            self._file, self.answers = self._open(header, resume)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._sync()
        with contextlib.suppress(OSError):  # a full disk was told of when it was met
            self._file.close()
        self._lock.release()

    def add(self, cell: Cell, stamp: str, outcome: Outcome) -> None:
        """Write one answer; it survives the end of this process from now on.

        Raises:
            QuantmuxError: The disk is full, or gone (code ``journal_write``).
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        names = {"cell": cell.id, "kernel": cell.kernel, "check": cell.check, "label": cell.label}
        self._write({**names, "stamp": stamp, **pack_outcome(outcome), "at": now})
        # survives a power cut, too, but for the last second
        if time.monotonic() - self._synced > _SYNC:
            self._sync()

    def forget(self, cells: Iterable[Cell]) -> None:
        """Let the answers of these cells count no more: they are asked anew.

        Raises:
            QuantmuxError: The disk is full, or gone (code ``journal_write``).
        """
        known = [cell.id for cell in cells if cell.id in self.answers]
        if known:
            self._write({"forget": known})
            for name in known:
                del self.answers[name]

    def _write(self, line: dict[str, Any]) -> None:
        try:
            self._file.write(encode(line))
            self._file.flush()
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _sync(self) -> None:
        self._synced = time.monotonic()
        try:
            os.fsync(self._file.fileno())
        except OSError:
            return  # a file system that cannot: the line itself was written

    def _open(
        self, header: dict[str, Any], resume: bool | None
    ) -> tuple[BinaryIO, dict[str, tuple[str, Outcome]]]:
        try:
            kept = self._kept(header, resume)
            if kept is None:
                stream = self.path.open("xb")
                stream.write(encode({"header": header}))
                stream.flush()
                return stream, {}
            with self.path.open("r+b") as torn:
                torn.truncate(kept.size)
            return self.path.open("ab"), kept.answers
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _kept(self, header: dict[str, Any], resume: bool | None) -> Kept | None:
        """Give what is there and fits; None when a new journal is to be begun."""
        if not self.path.exists():
            return None
        problem = ""
        kept = None
        try:
            kept = read_journal(self.path)
        except ValueError as error:
            problem = str(error)
            if resume is not False:
                raise ConfigError(
                    f"{self.path} cannot be resumed",
                    facts=[problem],
                    hint="--fresh keeps it aside and begins anew, --out takes another folder",
                    code="journal",
                ) from None
        if kept is not None and not kept.header:
            self.path.unlink()
            return None
        if kept is not None:
            problem = header_change(kept.header, header)
            if problem and resume is True:
                raise ConfigError(
                    f"{self.path} cannot be resumed",
                    facts=[problem],
                    hint="--fresh keeps it aside and begins anew, --out takes another folder",
                    code="journal",
                )
        if not problem:
            return kept
        aside = _aside(self.path)
        self.note = f"{problem}: the journal of before is kept as {aside.name}"
        return None


def header_of(device: DeviceProfile, seed: int) -> dict[str, Any]:
    """Give what answers depend on besides the kernels."""
    return {
        "schema": SCHEMA,
        "quantmux": __version__,
        "suite": suite_digest(),
        "device": device.name,
        "title": device.title,
        "driver": device.driver,
        "seed": seed,
    }


def header_change(then: dict[str, Any], now: dict[str, Any]) -> str:
    """Say what is another thing than in the journal, "" when nothing is."""
    titles = {"suite": "the checks", "seed": "the seed", "title": "the device"}
    for name, value in now.items():
        found = then.get(name)
        if found != value:
            return f"{titles.get(name, name)}: {found} then, {value} now"
    return ""


def stamp_of(registry: Registry, kernel: str) -> str:
    """Give 16 hex digits over a kernel's sources and the packages that its numbers depend on."""
    spec = registry.get(kernel)
    digest = kernel_digest(spec, registry.folder(spec.backend))
    text = json.dumps([digest, versions_here(spec)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def suite_digest() -> str:
    """Give 16 hex digits over the sources of the checks and of the references."""
    found = hashlib.sha256()
    root = Path(quantmux.__file__).parent
    for room in _ROOMS:
        for file in sorted((root / room).rglob("*.py")):
            if file.name.startswith(_NOT_ANSWERS):
                continue
            found.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return found.hexdigest()[:16]


def read_journal(path: Path) -> Kept:
    """Read a journal; a last line that was cut off is left out.

    One that ended before its header was whole has an empty header.

    Raises:
        ValueError: It is no journal, of another schema, or damaged; says which line.
    """
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    lines = whole.splitlines()
    if not lines:
        # ended before its header was whole: nothing was answered yet
        if data.startswith(_BEGIN) or _BEGIN.startswith(data):
            return Kept({})
        raise ValueError("line 1 is no header of a journal")
    header = _line(lines[0], 1).get("header")
    if not isinstance(header, dict):
        raise ValueError("line 1 is no header of a journal")  # noqa: TRY004 - of the file
    if header.get("schema") != SCHEMA:
        raise ValueError(f"it is of schema {header.get('schema')}, this version reads {SCHEMA}")
    kept = Kept(header, size=len(whole))
    for number, line in enumerate(lines[1:], 2):
        _take(kept, _line(line, number), number)
    return kept


def _take(kept: Kept, entry: dict[str, Any], number: int) -> None:
    try:
        if "forget" in entry:
            for name in entry["forget"]:
                kept.answers.pop(name, None)
        else:
            kept.answers[entry["cell"]] = (entry["stamp"], unpack_outcome(entry))
            kept.days[entry["cell"]] = str(entry.get("at", ""))[:10]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"line {number} is no answer: {error}") from None


def _line(line: bytes, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"line {number} is damaged: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"line {number} is damaged: it is no object")  # noqa: TRY004
    return found


def _aside(path: Path) -> Path:
    """Move a journal out of the way under a name that is free."""
    for n in range(1, 10_000):
        aside = path.with_name(f"{path.stem}.{n}{path.suffix}")
        if not aside.exists():
            return path.rename(aside)
    raise OSError(f"{path.stem}.1 … 9999 all exist")


def _unwritable(path: Path, error: OSError) -> QuantmuxError:
    return QuantmuxError(
        "the journal of the sweep cannot be written",
        facts={"file": path, "reason": error.strerror or error},
        hint="give it another folder: --out FOLDER",
        code="journal_write",
    )
