"""A covering choice: few rows in which every pair of values of any two dimensions occurs."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def pairwise(dimensions: Mapping[str, Sequence[Any]]) -> tuple[dict[str, Any], ...]:
    """Give rows, one value per dimension, that together hold every pair of values.

    Greedy and deterministic: the number of rows is near the product of the two longest
    dimensions, and not the product of all.

    Args:
        dimensions: Name → values; a dimension without values is left out.
    """
    names = [name for name, values in dimensions.items() if values]
    sizes = {name: len(dimensions[name]) for name in names}
    if len(names) < 2:
        return tuple({name: value} for name in names for value in dimensions[name])
    missing = {
        (a, i, b, j)
        for a, b in combinations(names, 2)
        for i in range(sizes[a])
        for j in range(sizes[b])
    }
    rows: list[dict[str, Any]] = []
    while missing:
        # the least missing pair begins the row, so that every row covers something new
        a, i, b, j = min(missing)
        chosen = {a: i, b: j}
        for name in names:
            if name not in chosen:
                chosen[name] = _best(name, sizes[name], chosen, names, missing, len(rows))
        missing -= {(x, chosen[x], y, chosen[y]) for x, y in combinations(names, 2)}
        rows.append({name: dimensions[name][chosen[name]] for name in names})
    return tuple(rows)


def _best(
    name: str,
    size: int,
    chosen: Mapping[str, int],
    names: Sequence[str],
    missing: set[tuple[str, int, str, int]],
    turn: int,
) -> int:
    """Give the value that covers the most missing pairs; ties go round, so that values mix."""
    place = names.index(name)
    gains = []
    for value in range(size):
        gain = 0
        for other, index in chosen.items():
            first = names.index(other) < place
            pair = (other, index, name, value) if first else (name, value, other, index)
            gain += pair in missing
        gains.append(gain)
    most = max(gains)
    best = [value for value, gain in enumerate(gains) if gain == most]
    return best[turn % len(best)]
