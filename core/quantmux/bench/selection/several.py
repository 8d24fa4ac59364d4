"""Times of several runs as one: what is shipped should not hang on where buffers lay in one run.

Two bindings of one pipeline are 0.3 % apart in the median and 14 % in the worst cell (H200,
2026-11-21), by where their memory lies; two runs seldom meet the same bad place.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from quantmux.bench.selection.judge import geomean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.bench.selection.kept import KeptRun
    from quantmux.dispatch.tuning import Ids, TuningRow

    Place = tuple[str, int, int, int]


def tuning_rows_of(runs: Sequence[KeptRun]) -> list[TuningRow]:
    """Give the times of several runs, of a pipeline that was in several their geometric mean.

    At a point all pipelines are of the same runs: those are averaged that timed what the last of
    them did, with the same kernels. What another run lacks would else be compared with a mean that
    it is no part of.

    Args:
        runs: In the order of their dates; the last says which pipelines there are.

    Raises:
        ConfigError: The digest of a kernel is not in its run.
    """
    places: dict[Place, list[dict[Ids, TuningRow]]] = defaultdict(list)
    for run in runs:
        mine: dict[Place, dict[Ids, TuningRow]] = defaultdict(dict)
        for row in run.tuning_rows():
            mine[row.scheme, row.n, row.k, row.m][row.pipeline] = row
        for place, rows in mine.items():
            places[place].append(rows)
    return [row for found in places.values() for row in _mean(found)]


def _mean(found: list[dict[Ids, TuningRow]]) -> list[TuningRow]:
    last = found[-1]
    same = [rows for rows in found if _kernels(rows) == _kernels(last)]
    return [
        row.replace(
            us=round(geomean([rows[ids].us for rows in same]) or row.us, 4),
            noise=max(rows[ids].noise for rows in same),
        )
        for ids, row in last.items()
    ]


def _kernels(rows: dict[Ids, TuningRow]) -> dict[Ids, object]:
    return {ids: row.digests for ids, row in rows.items()}
