"""What of the gain of `padded_weights` is padding alone, and what contiguous rows of y leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux.bench.seeds.ratios import geomean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.bench.seeds.rows import SeedRow


def same_product_lines(rows: Sequence[SeedRow], same: str, few: int) -> list[str]:
    """Say what is gained where all three end in the same product.

    Args:
        rows: Of the experiment.
        same: Name of ours on the product of the two others.
        few: The second line is of at most so many rows.
    """
    mine = [row for row in rows if row.kernel == same and not row.is_control]
    lines = []
    for title, some in (
        ("all M", mine),
        (f"M <= {few}", [row for row in mine if row.facts["m"] <= few]),
    ):
        parts = _ratios(some)
        if parts:
            text = f"padding alone, {title}, geomean over {len(some)} cases of {same}"
            lines.append(f"{text}: {', '.join(parts)}")
    return lines


def contiguous_lines(rows: Sequence[SeedRow], ours: str, copied: str) -> list[str]:
    """Say what the means are where every y of ours is contiguous, as the others' are.

    Args:
        rows: Of the experiment.
        ours: Name of ours as it is.
        copied: Name of ours with its rows copied together, where they are not contiguous.
    """
    found = {r.case: r for r in rows if r.kernel == ours and r.kind == "ours" and not r.is_control}
    dense = {r.case: r for r in rows if r.kernel == copied and r.us and not r.is_control}
    if not dense:
        return []
    parts = _ratios([dense.get(case, row) for case, row in found.items()])
    text = f"the mean with every y contiguous ({copied}, in {len(dense)} cases)"
    return [f"{text}: {', '.join(parts)}"] if parts else []


def _ratios(rows: Sequence[SeedRow]) -> list[str]:
    parts = []
    for title, values in (
        ("before/ours", [row.before_ratio for row in rows if row.before_ratio]),
        ("seed/ours", [row.ratio for row in rows if row.ratio]),
    ):
        if values:
            parts.append(f"{title} {geomean(values):.2f} ({min(values):.2f} to {max(values):.2f})")
    return parts
