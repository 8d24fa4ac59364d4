"""Which cases are warm: so small that no number of copies allowed reaches the protocol's bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.bench.seeds.rows import SeedRow


def warm_line(rows: Sequence[SeedRow], rotate_mb: float, cache_mb: float) -> str:
    """Say how many cases of one experiment are warm, "" where none is.

    Args:
        rows: Of one experiment.
        rotate_mb: What all copies of a cold case are at least, MB.
        cache_mb: The L2 cache, MB.
    """
    rotated = {row.case: row for row in rows if row.us and row.copies}
    warm = [row for row in rotated.values() if not row.cold]
    if not warm:
        return ""
    copies = max(row.copies for row in warm)
    inside = sum(row.rotated_mb < cache_mb for row in warm)
    text = f"{len(warm)} of {len(rotated)} cases are warm: {copies} copies of so little are less"
    text += f" than {rotate_mb:.0f} MB together"
    if cache_mb >= rotate_mb or inside == len(warm):
        return f"{text} and fit in the cache"
    parts = (
        f"{inside} fit in the cache of {cache_mb:.0f} MB" if inside else "none fits in the cache"
    )
    return f"{text}; {parts}, {len(warm) - inside} are more than it holds"
