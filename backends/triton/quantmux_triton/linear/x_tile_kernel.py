"""A tile of a plain x for the products that keep it in 16 bit."""

import triton
import triton.language as tl


@triton.jit
def load_x(pointers, column, is_row, K: tl.constexpr):
    """Load x at ``pointers`` [BM, columns], zero beyond M and K.

    Args:
        pointers: Where the elements lie.
        column: Their columns, [columns].
        is_row: Which rows are there, [BM].
        K: Columns of x; whole slabs need no test of the column.
    """
    inside = is_row[:, None] if K % 256 == 0 else is_row[:, None] & (column < K)[None, :]
    return tl.load(pointers, mask=inside, other=0.0, eviction_policy="evict_last")
