"""A tile of a plain x, and its product with weights widened in registers."""

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


@triton.jit
def product(w, x, acc, PLAIN: tl.constexpr):
    """Give ``acc + w · xᵀ``, [BN, BM]; in fp32 throughout when PLAIN, for the interpreter."""
    if PLAIN:
        acc += tl.dot(w, tl.trans(x.to(tl.float32)), input_precision="ieee")
    else:
        acc = tl.dot(w, tl.trans(x), acc)
    return acc
