"""Evidence files on disk: read without trust, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from quantmux.capability.ledger import SCHEMA, EvidenceFile, EvidenceRow, seal_of
from quantmux.errors import ConfigError

_log: Final = logging.getLogger("quantmux.evidence")
_NAME: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")

Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class EvidenceContent:
    """What was found in one evidence file.

    Attributes:
        rows: Those that count, each with the JSON it was read from.
        problems: What does not count and why, one line each without the file's name.
        is_newer: It is of a later schema: another version's, not broken.
    """

    rows: tuple[tuple[EvidenceRow, dict[str, Any]], ...] = ()
    problems: tuple[str, ...] = ()
    is_newer: bool = False


_NOTHING: Final = EvidenceContent()
_read: Final[dict[Path, tuple[Stamp, EvidenceContent]]] = {}
_warned: Final[set[Path]] = set()


def evidence_path(folder: Path, device: str) -> Path | None:
    """Give where a folder keeps the evidence of a device; None when no file can be called so."""
    return folder / f"{device}.json" if _NAME.match(device) else None


def read_evidence(file: Path) -> EvidenceContent:
    """Read an evidence file; nothing when there is none. Never raises.

    Parsed once for each state of the file; the first problem is logged once per process.
    """
    try:
        stat = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return _NOTHING
    except OSError as error:
        return _told(file, EvidenceContent(problems=(_reason(error),)))
    stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
    known = _read.get(file)
    if known is None or known[0] != stamp:
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:  # gone since the line above
            return _NOTHING
        except (OSError, UnicodeDecodeError) as error:
            content = EvidenceContent(problems=(_reason(error),))
        else:
            content = parse_evidence(text, file.stem)
        known = _read[file] = (stamp, _told(file, content))
    return known[1]


def parse_evidence(text: str, device: str) -> EvidenceContent:
    """Give the rows of a file's text that can be trusted, and what is wrong with the rest.

    Args:
        text: Content of the file.
        device: Device of the file's name.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        return EvidenceContent(problems=(f"it is no JSON, perhaps cut short: {error}",))
    if not isinstance(data, dict) or not isinstance(data.get("rows"), list):
        return EvidenceContent(problems=('it is not {"schema", "device", "rows": [...]}',))
    try:
        head = EvidenceFile(**{**data, "rows": ()})
    except ConfigError as error:
        return EvidenceContent(problems=("; ".join(error.facts),))
    if head.schema_number != SCHEMA:
        newer = head.schema_number > SCHEMA
        problem = f"it is of schema {head.schema_number}, this version reads {SCHEMA}"
        return EvidenceContent(problems=(problem,), is_newer=newer)
    if head.device != device:
        return EvidenceContent(
            problems=(f'it says "device": "{head.device}", its name says {device}',)
        )
    return _rows(data["rows"], device)


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock that writers of a file share; the lock lies hidden beside it.

    Raises:
        OSError: The folder cannot be made or written.
    """
    from filelock import FileLock

    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(f".{file.name}.lock")):
        yield


def write_whole(file: Path, text: str) -> None:
    """Put a text in the place of a file, whole or not at all.

    Raises:
        OSError: It could not be written; what stood there stands.
    """
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".tmp", dir=file.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)  # mkstemp's are for their owner only, a package's are for all
        Path(name).replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def set_aside(file: Path) -> Path:
    """Copy a file beside itself as ``<name>.bad-<n>``, so that nothing is lost; gives the copy.

    Raises:
        OSError: It could not be copied.
    """
    content = file.read_bytes()
    for n in range(1, 10_000):
        aside = file.with_name(f"{file.name}.bad-{n}")
        try:
            with aside.open("xb") as stream:
                stream.write(content)
        except FileExistsError:
            continue
        return aside
    raise OSError(f"{file.name}.bad-1 … bad-9999 all exist")


def _rows(given: list[Any], device: str) -> EvidenceContent:
    rows: list[tuple[EvidenceRow, dict[str, Any]]] = []
    problems: list[str] = []
    for number, raw in enumerate(given, 1):
        if not isinstance(raw, dict):
            problems.append(f"row {number} is no object")
            continue
        name = f"row {number} ({raw.get('kernel', 'no kernel')})"
        try:
            row = EvidenceRow(**raw)
        except (ConfigError, TypeError) as error:
            facts = getattr(error, "facts", ()) or (str(error),)
            problems.append(f"{name}: {'; '.join(facts)}")
            continue
        problem = row.problem or _seal_problem(row, raw, device)
        if problem:
            problems.append(f"{name}: {problem}")
        else:
            rows.append((row, raw))
    for kernel, count in Counter(row.kernel for row, _ in rows).items():
        if count > 1:
            problems.append(f"{kernel} has {count} rows, none of which counts")
            rows = [pair for pair in rows if pair[0].kernel != kernel]
    return EvidenceContent(tuple(rows), tuple(problems))


def _seal_problem(row: EvidenceRow, raw: dict[str, Any], device: str) -> str:
    if not row.seal:
        return "it has no seal: quantmux did not write it"
    if row.seal != seal_of(raw, device):
        return "its seal does not fit: it was edited after the run, or is another device's"
    return ""


def _told(file: Path, content: EvidenceContent) -> EvidenceContent:
    if content.problems and file not in _warned:
        _warned.add(file)
        first, *others = content.problems
        more = f" (and {len(others)} more)" if others else ""
        _log.warning("evidence in %s does not count: %s%s", file, first, more)
    return content


def _reason(error: Exception) -> str:
    return f"it cannot be read: {getattr(error, 'strerror', None) or error}"
