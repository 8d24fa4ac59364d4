"""Ratios of one case, and their means over cases."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from quantmux.bench.seeds.rows import SeedRow

MAIN: Final = ("before", "seed", "ours")
"""Roles whose first variant makes the ratios."""


def with_ratios(rows: Sequence[SeedRow]) -> list[SeedRow]:
    """Give the rows of one case with the main row of each role marked, and ratios to those."""
    main = {kind: next((r for r in rows if r.kind == kind and r.us), None) for kind in MAIN}
    before, seed = main["before"], main["seed"]
    found = []
    for row in rows:
        made = replace(row, is_main=any(row is known for known in main.values()))
        if row.us and seed is not None and seed.us:
            made = replace(made, peer=seed.kernel, peer_us=seed.us, ratio=seed.us / row.us)
        if row.us and before is not None and before.us:
            made = replace(made, before_us=before.us, before_ratio=before.us / row.us)
        found.append(made)
    return found


def geomean(values: Iterable[float | None]) -> float | None:
    """Give the geometric mean of those that are there, None without any."""
    there = [value for value in values if value]
    return exp(sum(log(value) for value in there) / len(there)) if there else None


def is_in(facts: Mapping[str, Any], headline: Mapping[str, Any]) -> bool:
    """Tell whether a case is one of those that the mean ratios of its experiment are of."""
    return all(facts.get(key) == value for key, value in headline.items())
