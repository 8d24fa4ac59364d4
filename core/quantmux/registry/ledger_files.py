"""Evidence files on disk, read without trust."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from quantmux.capability.ledger import SCHEMA, EvidenceRow, seal_of
from quantmux.errors import ConfigError
from quantmux.registry.row_files import Kind, read_head, reason_of, tell

if TYPE_CHECKING:
    from pathlib import Path

EVIDENCE: Final = Kind("evidence", "evidence", logging.getLogger("quantmux.evidence"))

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


def read_evidence(file: Path) -> EvidenceContent:
    """Read an evidence file; nothing when there is none. Never raises.

    Parsed once for each state of the file; the first problem is logged once per process.
    """
    try:
        stat = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return _NOTHING
    except OSError as error:
        return _told(file, EvidenceContent(problems=(reason_of(error),)))
    stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
    known = _read.get(file)
    if known is None or known[0] != stamp:
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:  # gone since the line above
            return _NOTHING
        except (OSError, UnicodeDecodeError) as error:
            content = EvidenceContent(problems=(reason_of(error),))
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
    head = read_head(text, device, SCHEMA)
    if head.problem:
        return EvidenceContent(problems=(head.problem,), is_newer=head.is_newer)
    return _rows(head.rows, device)


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
    tell(file, content.problems, _warned, EVIDENCE)
    return content
