"""Tuning files on disk: read without trust, written whole or not at all.

A file ``<device>.json`` is ``{"schema": 1, "device", "rows": [...]}``; keys may grow, not shrink.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from quantmux.dispatch.tuning import TuningRow
from quantmux.errors import ConfigError
from quantmux.registry.row_files import (
    Kind,
    kept_text,
    read_head,
    reason_of,
    rewriting,
    spare,
    tell,
    write_whole,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SCHEMA: Final = 1
"""Number of this file format; a file of a greater one is not read."""

TIMES: Final = Kind("tuning", "measured times", logging.getLogger("quantmux.select"))
_warned: Final[set[Path]] = set()


@dataclass(frozen=True, slots=True)
class TuningContent:
    """What was found in one tuning file.

    Attributes:
        rows: Those that count.
        problems: What does not count and why, one line each without the file's name.
        is_newer: It is of a later schema: another version's, not broken.
    """

    rows: tuple[TuningRow, ...] = ()
    problems: tuple[str, ...] = ()
    is_newer: bool = False


def read_tuning(file: Path) -> TuningContent:
    """Read a tuning file; nothing when there is none. Never raises; the first problem is logged."""
    try:
        text = file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return TuningContent()
    except (OSError, UnicodeDecodeError) as error:
        content = TuningContent(problems=(reason_of(error),))
    else:
        content = parse_tuning(text, file.stem)
    tell(file, content.problems, _warned, TIMES)
    return content


def parse_tuning(text: str, device: str) -> TuningContent:
    """Give the rows of a file's text that can be trusted, and what is wrong with the rest.

    Args:
        text: Content of the file.
        device: Device of the file's name.
    """
    head = read_head(text, device, SCHEMA)
    if head.problem:
        return TuningContent(problems=(head.problem,), is_newer=head.is_newer)
    return _rows(head.rows)


def record_tuning(rows: Iterable[TuningRow], device_name: str, folder: Path) -> Path:
    """Lay measured rows over those kept in ``folder/<device>.json``; gives the file.

    A row replaces the one of the same pipeline, scheme and shape; the others stay. Processes that
    record at once wait for each other; a reader sees the old file or the new one. What was not to
    be trusted is kept as ``<device>.json.bad-<n>``.

    Args:
        rows: What was measured; an empty ``date`` becomes today.
        device_name: Name of the device's profile.
        folder: A plugin's ``tuning`` folder, or the one in the user's folder.

    Raises:
        ConfigError: A row lacks the digest of one of its kernels, or the device's name is no name.
        QuantmuxError: The folder cannot be written, or holds a file of a later version
            (code ``tuning_write``); what stood there stands.
    """
    today = datetime.now(UTC).date().isoformat()
    given = [row if row.date else row.replace(date=today) for row in rows]
    for row in given:
        if problem := _problem(row):
            raise ConfigError("a measured time cannot be recorded", facts=[problem], code="tuning")
    with rewriting(folder, device_name, TIMES) as file:
        merged = {row.key: row for row in _kept(file, device_name)}
        merged |= {row.key: row for row in given}
        kept = [merged[key].to_dict() for key in sorted(merged)]
        write_whole(file, _text(device_name, kept))
    return file


def _text(device: str, rows: list[dict[str, Any]]) -> str:
    # one row a line, so that a change of one shows as one
    lines = ",\n".join(json.dumps(row, allow_nan=False) for row in rows)
    return f'{{"schema": {SCHEMA}, "device": {json.dumps(device)}, "rows": [\n{lines}\n]}}\n'


def _kept(file: Path, device: str) -> tuple[TuningRow, ...]:
    text = kept_text(file)
    if text is None:
        return ()
    content = parse_tuning(text, device)
    spare(file, content.problems, is_newer=content.is_newer, kind=TIMES)
    return content.rows


def _rows(given: list[Any]) -> TuningContent:
    rows: list[TuningRow] = []
    problems: list[str] = []
    for number, raw in enumerate(given, 1):
        if not isinstance(raw, dict):
            problems.append(f"row {number} is no object")
            continue
        try:
            row = TuningRow(**raw)
        except (ConfigError, TypeError) as error:
            facts = getattr(error, "facts", ()) or (str(error),)
            problems.append(f"row {number}: {'; '.join(facts)}")
            continue
        problem = _problem(row)
        if problem:
            problems.append(f"row {number}: {problem}")
        else:
            rows.append(row)
    for key, count in Counter(row.key for row in rows).items():
        if count > 1:
            name = f"{' -> '.join(key[0])} {key[1]} N={key[2]} K={key[3]} M={key[4]}"
            problems.append(f"{name} has {count} rows, none of which counts")
            rows = [row for row in rows if row.key != key]
    return TuningContent(tuple(rows), tuple(problems))


def _problem(row: TuningRow) -> str:
    known = dict(row.digests)
    missing = [kernel for kernel in row.pipeline if not known.get(kernel)]
    return f"no digest of {', '.join(missing)}: what was run is not known" if missing else ""
