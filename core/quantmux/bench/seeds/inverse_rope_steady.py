"""What the steady times of inverse RoPE say of the report, and of a large number of tokens."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Final

from quantmux.bench.seeds.ratios import geomean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.bench.seeds.rows import SeedRow

_LARGE: Final = 65536
"""Tokens times heads from which on the copy rate decides."""

_REPORTED_FROM: Final = 512
"""T from which on the report says that the pinned kernel is the faster one."""


def steady_remarks(rows: Sequence[SeedRow]) -> tuple[str, ...]:
    """Give a line on the report's word about large T, and one on ours there."""
    timed = [row for row in rows if row.is_main and row.us is not None]
    seed = [
        row.before_ratio
        for row in timed
        if row.kind == "seed" and row.facts["m"] >= _REPORTED_FROM and row.before_ratio
    ]
    ours = [
        row
        for row in timed
        if row.kind == "ours" and row.facts["m"] * row.facts["heads"] >= _LARGE and row.ratio
    ]
    lines = []
    if seed:
        lines.append(
            f"Once compiled, pinning num_tokens changes the time by {min(seed):.3f} to "
            f"{max(seed):.3f} (before/seed, {len(seed)} of the cases, from T = "
            f"{_REPORTED_FROM} on); the report says that it is faster there."
        )
    if ours:
        shares = [row.pct_of_ceiling for row in ours if row.pct_of_ceiling is not None]
        share = f", at {median(shares):.0f} % of the copy rate" if shares else ""
        lines.append(
            f"From T x heads = {_LARGE} on ours is {geomean(row.ratio for row in ours):.2f} times "
            f"as fast as the seed{share} ({len(ours)} of the cases)."
        )
    return tuple(lines)
