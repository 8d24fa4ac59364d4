"""What the picture of the seeds shows, taken from a report's data: points, claims, noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from quantmux.bench.seeds.known import headline_of
from quantmux.bench.seeds.ratios import geomean, is_in

Data = Mapping[str, Any]
"""A report as `SeedReport.to_dict` gives it and as a result file holds it."""

SERIES: Final = ("before/ours", "seed/ours", "before/seed")
"""Ratios of times: the first two say what ours gains, the last is what the report speaks of."""


@dataclass(frozen=True, slots=True)
class Point:
    """One ratio of one case.

    Attributes:
        series: One of `SERIES`.
        case: The case's name.
        m: Its rows or tokens.
        ratio: Of two medians of one run.
        is_control: There is nothing to gain on it.
    """

    series: str
    case: str
    m: int
    ratio: float
    is_control: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """One experiment in the picture.

    Attributes:
        name: Of the experiment.
        number: Of the pull request.
        title: One line.
        figure: What its report says, word for word.
        claim: Least and greatest before/seed of the report, None where it speaks of something else.
        points: Every ratio that was measured, of the cases that its means are of.
        noise: M → the largest A/A of its cases with that many rows.
    """

    name: str
    number: int
    title: str
    figure: str
    claim: tuple[float, float] | None
    points: tuple[Point, ...]
    noise: Mapping[int, float]

    def mean(self, series: str) -> float | None:
        """Give the geometric mean of a series over the cases that are no controls."""
        some = [p.ratio for p in self.points if p.series == series and not p.is_control]
        return geomean(some)


@dataclass(frozen=True, slots=True)
class Stall:
    """What one way of launching waits for the compiler, in one fresh process.

    Attributes:
        case: Its case.
        way: Its name.
        kind: Role.
        variants: Compiled during the calls.
        parts: (T, ms) of every first call that waited, in the order of the calls.
        total_ms: Of all calls.
    """

    case: str
    way: str
    kind: str
    variants: int
    parts: tuple[tuple[int, float], ...]
    total_ms: float


def shown(data: Data) -> list[Shown]:
    """Give the experiments of which something was timed, in the report's order."""
    found = []
    for name, told in data["experiments"].items():
        headline = headline_of(name, told)
        rows = [
            row
            for row in data["rows"]
            if row["experiment"] == name and is_in(row["facts"], headline)
        ]
        points = _points(rows)
        if not points:
            continue
        claim = told["claim"]
        ratios = claim["ratios"]
        found.append(
            Shown(
                name=name,
                number=told["pull_request"],
                title=told["title"],
                figure=claim["figure"],
                claim=(ratios[0], ratios[1]) if ratios else None,
                points=points,
                noise=_noise(rows),
            )
        )
    return found


def stalls(data: Data) -> list[Stall]:
    """Give the stalls of fresh processes, in the order of the rows."""
    found = []
    for row in data["rows"]:
        by_tokens = row["extra"].get("stall_by_tokens_ms")
        if row["status"] != "ok" or by_tokens is None:
            continue
        waited = set(row["extra"]["stalled_tokens"])
        parts = [(int(t), float(ms)) for t, ms in by_tokens.items() if int(t) in waited]
        found.append(
            Stall(
                case=row["case"],
                way=row["kernel"],
                kind=row["kind"],
                variants=row["extra"]["variants"],
                parts=tuple(parts),
                total_ms=row["extra"]["stall_ms"],
            )
        )
    return found


def _noise(rows: Sequence[Data]) -> dict[int, float]:
    found: dict[int, float] = {}
    for row in rows:
        if row["us"] is not None and row["aa_noise"] is not None:
            m = int(row["facts"].get("m", 0))
            found[m] = max(found.get(m, 0.0), row["aa_noise"])
    return found


def _points(rows: Sequence[Data]) -> tuple[Point, ...]:
    found: list[Point] = []
    for row in rows:
        if not row["is_main"] or row["us"] is None:
            continue
        ratios: dict[str, float | None] = {}
        if row["kind"] == "ours":
            ratios = {"before/ours": row["before_ratio"], "seed/ours": row["ratio"]}
        elif row["kind"] == "seed":
            ratios = {"before/seed": row["before_ratio"]}
        found += [
            Point(series, row["case"], int(row["facts"].get("m", 0)), ratio, row["is_control"])
            for series, ratio in ratios.items()
            if ratio
        ]
    return tuple(found)
