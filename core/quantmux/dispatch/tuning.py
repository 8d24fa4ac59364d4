"""Measured times of pipelines: rows, nearest-shape look-up, thresholds over M."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from quantmux.config._base import Frozen

MAX_DISTANCE: Final = 2 * math.log(2)
"""Farthest a measured (N, K) may lie, in log units: a factor 4 over both together."""

NOISE_BAND: Final = 1.03
"""Pipelines within 3 % of the fastest tie, so that winners do not flip between runs."""


class TuningRow(Frozen):
    """One measurement: a pipeline on one shape. Times in µs."""

    pipeline: tuple[str, ...]
    scheme: str
    n: int
    k: int
    m: int
    us: float
    noise: float = 0.0
    digests: tuple[tuple[str, str], ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    date: str = ""


class TuningTable:
    """Rows by (pipeline, scheme); empty until somebody measures."""

    __slots__ = ("_rows",)

    def __init__(
        self, rows: Iterable[TuningRow] = (), digests: Mapping[str, str] | None = None
    ) -> None:
        """Keep the rows whose digests still hold; ``digests`` maps kernel id to today's."""
        kept: dict[tuple[tuple[str, ...], str], dict[tuple[int, int], list[TuningRow]]]
        kept = defaultdict(lambda: defaultdict(list))
        for row in rows:
            if digests is None or all(digests.get(i) == d for i, d in row.digests):
                kept[row.pipeline, row.scheme][row.n, row.k].append(row)
        self._rows = {key: dict(shapes) for key, shapes in kept.items()}

    def __len__(self) -> int:
        return sum(len(rows) for shapes in self._rows.values() for rows in shapes.values())

    def _shape(self, pipeline: tuple[str, ...], scheme: str, n: int, k: int) -> list[TuningRow]:
        shapes = self._rows.get((pipeline, scheme))
        if not shapes:
            return []
        far, shape = min((abs(math.log(n / a)) + abs(math.log(k / b)), (a, b)) for a, b in shapes)
        return shapes[shape] if far <= MAX_DISTANCE else []

    def us(self, pipeline: tuple[str, ...], scheme: str, n: int, k: int, m: int) -> float | None:
        """Give the measured time nearest in log(N, K), then in log M; None if nothing is near."""
        rows = self._shape(pipeline, scheme, n, k)
        if not rows:
            return None
        target = math.log(max(m, 1))
        nearest = min(rows, key=lambda r: (abs(math.log(max(r.m, 1)) - target), r.m))
        return nearest.us

    def thresholds(self, pipeline: tuple[str, ...], scheme: str, n: int, k: int) -> set[int]:
        """Give the first M behind each geometric mean of neighbouring measured Ms."""
        ms = sorted({max(r.m, 1) for r in self._shape(pipeline, scheme, n, k)})
        return {math.floor(math.sqrt(a * b)) + 1 for a, b in itertools.pairwise(ms)}
