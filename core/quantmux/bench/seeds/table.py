"""Rows as a reader compares them: a case a line, before beside seed beside ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from quantmux.bench.seeds.ratios import geomean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.bench.seeds.rows import SeedRow


@dataclass(slots=True)
class Line:
    """One case.

    Attributes:
        case: Its name.
        is_control: There is nothing to gain on it.
        before: Main row of ``before``, None where nothing of it was timed.
        seed: Main row of ``seed``.
        ours: Main row of ``ours``.
        further: Other rows that were timed, A/A left out.
        untimed: Rows that were refused or have failed.
    """

    case: str
    is_control: bool = False
    before: SeedRow | None = None
    seed: SeedRow | None = None
    ours: SeedRow | None = None
    further: list[SeedRow] = field(default_factory=list)
    untimed: list[SeedRow] = field(default_factory=list)

    @property
    def main(self) -> tuple[SeedRow | None, SeedRow | None, SeedRow | None]:
        """Give before, seed and ours."""
        return self.before, self.seed, self.ours


@dataclass(frozen=True, slots=True)
class Further:
    """A variant that is not one of the three, over the cases of an experiment.

    Attributes:
        name: Of the variant.
        kind: Its role.
        cases: On how many it was timed together with ours; controls do not count.
        ratio: Geometric mean of its time over ours: above 1, ours is faster.
        before_ratio: Geometric mean of the time of before over its own.
        host_us: Median of its host time.
        launches: What it launches, where that was counted; the least and the most.
    """

    name: str
    kind: str
    cases: int
    ratio: float | None
    before_ratio: float | None
    host_us: float | None
    launches: tuple[float, float] | None


def lines(rows: Sequence[SeedRow]) -> list[Line]:
    """Give one line per case of one experiment, in the order of the rows."""
    found: dict[str, Line] = {}
    for row in rows:
        line = found.setdefault(row.case, Line(row.case, row.is_control))
        if row.us is None and row.status != "ok":
            line.untimed.append(row)
        elif row.is_main and row.kind in ("before", "seed", "ours"):
            setattr(line, row.kind, row)  # without a time, too: some have numbers of their own only
        elif row.kind != "aa" and row.us is not None:
            line.further.append(row)
    return list(found.values())


def further(rows: Sequence[SeedRow]) -> list[Further]:
    """Give what is to be said of variants that are not one of the three, by name."""
    by_name: dict[str, list[tuple[SeedRow, float | None]]] = {}
    for line in lines(rows):
        for row in line.further:
            ours = line.ours.us if line.ours is not None and not line.is_control else None
            ratio = row.us / ours if row.us and ours else None
            by_name.setdefault(row.kernel, []).append((row, ratio))
    return [_further(name, pairs) for name, pairs in by_name.items()]


def _further(name: str, pairs: list[tuple[SeedRow, float | None]]) -> Further:
    rows = [row for row, _ in pairs]
    counted = [row.launches for row in rows if row.launches is not None]
    hosts = [row.host_us for row in rows if row.host_us is not None]
    return Further(
        name=name,
        kind=rows[0].kind,
        cases=sum(ratio is not None for _, ratio in pairs),
        ratio=geomean(ratio for _, ratio in pairs),
        before_ratio=geomean(row.before_ratio for row in rows if not row.is_control),
        host_us=median(hosts) if hosts else None,
        launches=(min(counted), max(counted)) if counted else None,
    )
