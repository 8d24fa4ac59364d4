"""Storing the scales of groups in any of the four layouts, padding included (device code)."""

import triton
import triton.language as tl

from quantmux_triton.numerics_kernel import exponent_byte

# how the scales of groups lie
ROW_MAJOR = tl.constexpr(0)
COL_MAJOR = tl.constexpr(1)
PACKED = tl.constexpr(2)


@triton.jit
def store_group_scales(
    scales, values, row, group, ld, padded_m, GROUPS: tl.constexpr, LAYOUT: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Store the scales of a tile of groups; what is padding must come as 0.

    Args:
        scales: Pointer to fp32, to int32 when PACKED.
        values: fp32 [R, TILE] scales; 0 in padded rows and in padded groups.
        row: int32 [R] rows of the tile.
        group: int32 [TILE] groups of the tile; the first is a multiple of 4 when PACKED.
        ld: Rows that a column of the storage has: padded_m, rounded up to 4 for
            ``col_major_aligned4`` and ``packed_pow2``. Without meaning when ROW_MAJOR.
        padded_m: Rows of the result.
        GROUPS: Groups of a stored row, padding included.
        LAYOUT: ``ROW_MAJOR``, ``COL_MAJOR`` or ``PACKED``.
        TILE: Groups of the tile, a power of two, at least 4 when PACKED.
    """
    if LAYOUT == ROW_MAJOR:
        at = row.to(tl.int64)[:, None] * GROUPS + group[None, :]
        tl.store(scales + at, values, (row < padded_m)[:, None] & (group < GROUPS)[None, :])
    elif LAYOUT == COL_MAJOR:
        at = group.to(tl.int64)[None, :] * ld + row[:, None]
        tl.store(scales + at, values, (row < ld)[:, None] & (group < GROUPS)[None, :])
    else:
        # a word holds the exponents of four groups, the first in the lowest byte
        WORDS: tl.constexpr = (GROUPS + 3) // 4
        bytes_ = exponent_byte(values) << ((group & 3) * 8)[None, :]
        words = tl.sum(tl.reshape(bytes_, (values.shape[0], TILE // 4, 4)), axis=2)
        word = tl.min(tl.reshape(group, (TILE // 4, 4)), axis=1) >> 2
        at = word.to(tl.int64)[None, :] * ld + row[:, None]
        tl.store(scales + at, words, (row < ld)[:, None] & (word < WORDS)[None, :])
