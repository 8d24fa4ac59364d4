"""From pipelines to M ranges on one prepared weight layout."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from quantmux.dispatch.pipeline import Pipeline
    from quantmux.dispatch.rank import Ranking
    from quantmux.dispatch.tier import Tier

PROBE_MS: Final = (1, 16, 64, 256, 1024, 4096)
"""Ms at which weight layouts are compared."""


@dataclass(frozen=True, slots=True)
class RangeChoice:
    """The pipeline for M from ``m_min`` to ``m_max``, and those behind it in order."""

    m_min: int
    m_max: int | None
    candidates: tuple[Pipeline, ...]

    @property
    def pipeline(self) -> Pipeline:
        """The winner."""
        return self.candidates[0]

    @property
    def tier(self) -> Tier:
        """Tier of the winner."""
        return self.pipeline.tier

    def to_dict(self) -> dict[str, Any]:
        """Give the range as JSON-ready data."""
        return {"m_min": self.m_min, "m_max": self.m_max, **self.pipeline.to_dict()}


def choose_weight_layouts(
    pipelines: list[Pipeline], ranking: Ranking, copies: int, ms: tuple[int, ...] = PROBE_MS
) -> frozenset[str]:
    """Give the weight layouts that serve best together, at most ``copies`` of them.

    Compared at `PROBE_MS`: fewest Ms not served, best tiers, fewest approximate, fewest
    experimental, then the least geomean slowdown against the per-M winners where all were measured,
    else the least sum of ranks.
    """
    names = sorted({p.weight_layout for p in pipelines})
    if len(names) <= copies:
        return frozenset(names)
    ordered = {m: ranking.order([p for p in pipelines if p.serves(m)], m) for m in ms}

    sets = [found for size in range(1, copies + 1) for found in itertools.combinations(names, size)]
    scores = {found: _score(frozenset(found), ordered, ranking) for found in sets}
    # times and ranks cannot be compared with each other: times decide only if all sets have them
    is_measured = all(score.slowdown is not None for score in scores.values())

    def key(found: tuple[str, ...]) -> tuple[int, int, int, int, float, int, tuple[str, ...]]:
        score = scores[found]
        cost = float(score.ranks)
        if is_measured and score.slowdown is not None:
            cost = score.slowdown
        unlike = score.approximate, score.experimental
        return score.missing, score.tiers, *unlike, cost, len(found), found

    best: tuple[str, ...] = min(sets, key=key)
    return frozenset(best)


@dataclass(frozen=True, slots=True)
class _Score:
    missing: int
    tiers: int
    approximate: int
    experimental: int
    ranks: int
    slowdown: float | None


def _score(layouts: frozenset[str], ordered: dict[int, list[Pipeline]], ranking: Ranking) -> _Score:
    """Compare the best pipelines on these layouts with the winners over all layouts."""
    missing = tiers = approximate = experimental = ranks = 0
    slowdown: float | None = 0.0
    for m, ranked in ordered.items():
        place = next((i for i, p in enumerate(ranked) if p.weight_layout in layouts), None)
        if place is None:
            missing += 1
            continue
        mine = ranked[place]
        tiers += mine.tier.rank
        approximate += mine.is_approximate
        experimental += mine.is_experimental
        ranks += place
        times = ranking.slowdown(mine, ranked[0], m)
        slowdown = None if times is None or slowdown is None else slowdown + math.log(times)
    return _Score(missing, tiers, approximate, experimental, ranks, slowdown)


def m_ranges(
    pipelines: list[Pipeline], ranking: Ranking, m: int | None = None
) -> tuple[RangeChoice, ...]:
    """Give the choice per M range, neighbours with one winner merged; one range if M is given."""
    if m is not None:
        ranked = ranking.order([p for p in pipelines if p.serves(m)], max(m, 1))
        return (RangeChoice(m, m, tuple(ranked)),) if ranked else ()
    starts = {1}
    for pipeline in pipelines:
        starts.add(pipeline.m_min)
        if pipeline.m_max is not None:
            starts.add(pipeline.m_max + 1)
    edges = sorted(starts | ranking.thresholds(pipelines))
    choices: list[RangeChoice] = []
    for first, following in zip(edges, [*edges[1:], None], strict=True):
        last = None if following is None else following - 1
        ranked = ranking.order([p for p in pipelines if p.covers(first, last)], first)
        if not ranked:
            continue
        before = choices[-1] if choices else None
        if before and before.pipeline is ranked[0] and before.m_max == first - 1:
            # fallbacks of the merged range: all of either, each still guarded by its own M limits
            merged = dict.fromkeys((*before.candidates, *ranked))
            choices[-1] = RangeChoice(before.m_min, last, tuple(merged))
        else:
            choices.append(RangeChoice(first, last, tuple(ranked)))
    return tuple(choices)
