"""Measured choices of tile sizes: data files per kernel and device, looked up by the nearest shape.

``configs/<stem>/<device>.json`` holds what a run on that device found best, with the measurement
beside it. A kernel's ``<stem>_config.py`` asks here when it is bound, and computes its own choice
where nothing was measured nearby::

    config = tuned(device.name, "fp8_group", "col_major", n=7168, m=16) or analytic(...)
    for m_max, config in tuned_ranges(device.name, "fp8_split_k", "fp8_block128", n=576, k=7168):
        ...  # a GEMM: one choice per range of M, the last of which has no end

Whoever measures writes with `record_tuned`. Rows in the user's folder, below ``triton/<stem>``,
come before the package's where both are as near. Neither torch nor Triton is imported.
"""

from __future__ import annotations

import json
import logging
import math
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field

from quantmux.config._base import Frozen
from quantmux.errors import ConfigError
from quantmux.registry.row_files import (
    Kind,
    device_file,
    kept_text,
    read_head,
    reason_of,
    rewriting,
    spare,
    tell,
    write_whole,
)
from quantmux.registry.user_folder import user_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SCHEMA: Final = 1
"""Number of the file format; a file of a greater one is not read."""

PACKAGE: Final = Path(__file__).parent
FOLDER: Final = "configs"

NEAR: Final = 2.0
"""Powers of two that a row's N or K may be away from the asked one. Beyond, tile sizes that were
best there say less than the analytic choice."""

NO_END: Final = (1 << 31) - 1
"""``m_max`` of the last range."""

KIND: Final = Kind("triton", "tuned tile sizes", logging.getLogger("quantmux.select"))
_warned: Final[set[Path]] = set()

Size = Annotated[int, Field(ge=1)]


class TunedRow(Frozen):
    """What was best for one shape, and how fast it was.

    Attributes:
        kind: What besides the shape the choice depends on, in the kernel's own words: a scheme, a
            scale layout. Compared as a whole.
        n: N, or the row width of a producer.
        k: K; 1 for a producer.
        m: M.
        config: What the kernel asked to be told: tile sizes, warps, stages.
        us: Time of a call, µs.
        rate: Bytes moved, GB/s, or operations, TFLOP/s, per ``unit``.
        unit: Which of them.
        triton: Version of Triton.
        date: Day of the measurement.
        note: How it was measured, if not by the protocol of ``docs/measuring.md``.
    """

    kind: str
    n: Size
    k: Size = 1
    m: Size
    config: dict[str, int]
    us: Annotated[float, Field(gt=0)]
    rate: Annotated[float, Field(gt=0)]
    unit: Literal["gb_s", "tflops"]
    triton: str
    date: str = ""
    note: str = ""

    @property
    def key(self) -> tuple[str, int, int, int]:
        """What one file holds one row of: kind, N, K, M."""
        return (self.kind, self.n, self.k, self.m)


def tuned(
    device: str, stem: str, kind: str, *, n: int, k: int = 1, m: int
) -> Mapping[str, int] | None:
    """Give the measured choice nearest to a shape; None when there is none near.

    Args:
        device: Name of the device's profile, ``h200``.
        stem: The kernel's file name.
        kind: As in the rows.
        n: N, or the row width of a producer.
        k: K; 1 for a producer.
        m: M.
    """
    for m_max, config in tuned_ranges(device, stem, kind, n=n, k=k):
        if m <= m_max:
            return config
    return None


@cache
def tuned_ranges(
    device: str, stem: str, kind: str, *, n: int, k: int = 1
) -> tuple[tuple[int, Mapping[str, int]], ...]:
    """Give the choices of the nearest measured (N, K) as (last M, choice), ascending in M.

    A range ends at the geometric mean of two measured M; the last one has no end. Neighbours that
    choose the same are one range. Empty when nothing near was measured.

    Args:
        device: Name of the device's profile.
        stem: The kernel's file name.
        kind: As in the rows.
        n: N, or the row width of a producer.
        k: K; 1 for a producer.
    """
    rows = [row for row in tuned_rows(device, stem) if row.kind == kind]
    near = [row for row in rows if max(_apart(row.n, n), _apart(row.k, k)) <= NEAR]
    if not near:
        return ()
    best = min(near, key=lambda row: math.hypot(_apart(row.n, n), _apart(row.k, k)))
    same = {row.m: row for row in reversed(near) if (row.n, row.k) == (best.n, best.k)}
    ranges: list[tuple[int, Mapping[str, int]]] = []
    ms = sorted(same)
    for m, following in zip(ms, [*ms[1:], None], strict=True):
        m_max = NO_END if following is None else math.isqrt(m * following)
        config = MappingProxyType(dict(same[m].config))
        if ranges and ranges[-1][1] == config:
            ranges.pop()
        ranges.append((m_max, config))
    return tuple(ranges)


@cache
def tuned_rows(device: str, stem: str) -> tuple[TunedRow, ...]:
    """Give all rows of a kernel on a device, the user's before the package's.

    A file that cannot be read, or a row that is not one, counts for nothing and is warned of once
    on the logger ``quantmux.select``.
    """
    found: list[TunedRow] = []
    for folder in (user_folder() / KIND.folder / stem, PACKAGE / FOLDER / stem):
        file = device_file(folder, device)
        if file is None:
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, UnicodeDecodeError) as error:
            tell(file, (reason_of(error),), _warned, KIND)
            continue
        rows, problems, _ = _parse(text, device)
        tell(file, problems, _warned, KIND)
        found += rows
    return tuple(found)


def tuned_files(stem: str) -> tuple[str, ...]:
    """Give the data files of a kernel, relative to the package: they are among its sources."""
    folder = PACKAGE / FOLDER / stem
    return tuple(sorted(f.relative_to(PACKAGE).as_posix() for f in folder.glob("*.json")))


def record_tuned(
    rows: Iterable[TunedRow], device: str, stem: str, folder: Path | None = None
) -> Path:
    """Lay measured rows over those kept for a kernel on a device; gives the file.

    A row replaces the one of the same kind and shape; the others stay.

    Args:
        rows: What was measured; an empty ``date`` becomes today.
        device: Name of the device's profile.
        stem: The kernel's file name.
        folder: ``PACKAGE / "configs"`` for the package's own; the user's folder when None.

    Raises:
        ConfigError: The device's name is no name.
        QuantmuxError: The folder cannot be written, or holds a file of a later version.
    """
    today = datetime.now(UTC).date().isoformat()
    given = {row.key: row if row.date else row.replace(date=today) for row in rows}
    place = (user_folder() / KIND.folder if folder is None else folder) / stem
    with rewriting(place, device, KIND) as file:
        text = kept_text(file)
        kept, problems, is_newer = _parse(text, device) if text is not None else ([], (), False)
        spare(file, problems, is_newer=is_newer, kind=KIND)
        merged = {row.key: row for row in kept} | given
        lines = ",\n".join(_line(merged[key]) for key in sorted(merged))
        head = f'"schema": {SCHEMA}, "device": {json.dumps(device)}'
        write_whole(file, f'{{{head}, "rows": [\n{lines}\n]}}\n')
    forget()
    return file


def forget() -> None:
    """Read the files anew at the next question."""
    tuned_rows.cache_clear()
    tuned_ranges.cache_clear()


def _line(row: TunedRow) -> str:
    return json.dumps(row.model_dump(exclude_defaults=True), allow_nan=False)


def _apart(a: int, b: int) -> float:
    """Give how many powers of two lie between two sizes."""
    return abs(math.log2(a / b))


def _parse(text: str, device: str) -> tuple[list[TunedRow], tuple[str, ...], bool]:
    """Give the rows that can be trusted, what is wrong with the rest, and whether it is newer."""
    head = read_head(text, device, SCHEMA)
    if head.problem:
        return [], (head.problem,), head.is_newer
    rows: list[TunedRow] = []
    problems: list[str] = []
    for number, raw in enumerate(head.rows, 1):
        try:
            rows.append(TunedRow(**_object(raw)))
        except (ConfigError, TypeError) as error:
            facts = getattr(error, "facts", ()) or (str(error),)
            problems.append(f"row {number}: {'; '.join(facts)}")
    return rows, tuple(problems), False


def _object(raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise TypeError("no object")
    return raw
