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

    Compared at `PROBE_MS`: fewest Ms not served, best tiers, fewest experimental, then the least
    geomean slowdown against the per-M winners where all were measured, else the least sum of ranks.
    """
    names = sorted({p.weight_layout for p in pipelines})
    if len(names) <= copies:
        return frozenset(names)
    ordered = {m: ranking.order([p for p in pipelines if p.serves(m)], m) for m in ms}

    def score(layouts: tuple[str, ...]) -> tuple[Any, ...]:
        missing = tiers = experimental = 0
        ranks, slowdown, is_measured = 0, 0.0, True
        for m, ranked in ordered.items():
            place = next((i for i, p in enumerate(ranked) if p.weight_layout in layouts), None)
            if place is None:
                missing += 1
                continue
            mine = ranked[place]
            tiers += mine.tier.rank
            experimental += mine.is_experimental
            ranks += place
            us, best = ranking.us(mine, m), ranking.us(ranked[0], m)
            if us is None or best is None:
                is_measured = False
            else:
                slowdown += math.log(us / best)
        cost = slowdown / len(ms) if is_measured else float(ranks)
        return missing, tiers, experimental, cost, len(layouts), layouts

    sets = itertools.chain.from_iterable(
        itertools.combinations(names, size) for size in range(1, copies + 1)
    )
    return frozenset(min(sets, key=score))


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
        starts |= ranking.thresholds(pipeline)
    edges = sorted(starts)
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
