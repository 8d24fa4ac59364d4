"""Tiles of ``silu(gate) · up`` read from x [m, 2N], and codes written: what the kernels share."""

import triton
import triton.language as tl

from quantmux_triton.numerics_kernel import widen
from quantmux_triton.silu_mul_quantize.silu_kernel import silu_mul


@triton.jit
def load_product(
    x, row, column, m, row_stride, column_stride, N: tl.constexpr,
    COVERED: tl.constexpr, BLOCK: tl.constexpr, ALIGNED: tl.constexpr, FAST_SILU: tl.constexpr,
    KEEP_INF: tl.constexpr = False,
):  # fmt: skip
    """Give a tile of the product as fp32 [R, C], 0 outside of the matrix.

    Args:
        x: Values [m, 2N], gates left and ups right.
        row: int32 [R] rows.
        column: int32 [C] columns.
        m: Rows of x.
        row_stride: Elements between rows of x.
        column_stride: Elements between columns of x, 1 when ALIGNED.
        N: Columns of the product.
        COVERED: Columns that tiles reach over, N or more.
        BLOCK: Columns of the tile; they begin at a multiple of it.
        ALIGNED: Rows of both halves begin at multiples of 16 bytes, without gaps between columns.
        FAST_SILU: ``HW`` of `silu_mul`.
        KEEP_INF: As of `silu_mul`.
    """
    inside = (row < m)[:, None]
    if N % BLOCK != 0 or COVERED > N:
        inside = inside & (column < N)[None, :]
    gates = x + (row.to(tl.int64) * row_stride)[:, None]
    if ALIGNED:
        gates = tl.multiple_of(gates + column[None, :], (1, 16))
        ups = tl.multiple_of(gates + N, (1, 16))
    else:
        gates = gates + (column.to(tl.int64) * column_stride)[None, :]
        ups = gates + column_stride.to(tl.int64) * N
    gate = widen(tl.load(gates, inside, other=0.0))
    up = widen(tl.load(ups, inside, other=0.0))
    return silu_mul(gate, up, FAST_SILU, KEEP_INF)


@triton.jit
def store_codes(
    data, code, row, column, m, padded_m, N: tl.constexpr, PADDED_N: tl.constexpr,
    BLOCK: tl.constexpr, STORE: tl.constexpr,
):  # fmt: skip
    """Store the codes of a tile into data [padded_m, PADDED_N]; 0 outside of the matrix.

    Whatever the scale is: 0 by a NaN scale is no 0.
    """
    code = tl.where((row < m)[:, None], code, 0)
    if N != PADDED_N:
        code = tl.where((column < N)[None, :], code, 0)
    is_stored = (row < padded_m)[:, None]
    if PADDED_N % BLOCK != 0:
        is_stored = is_stored & (column < PADDED_N)[None, :]
    target = data + (row.to(tl.int64) * PADDED_N)[:, None] + column[None, :]
    tl.store(tl.multiple_of(target, (1, STORE)), code, is_stored)
