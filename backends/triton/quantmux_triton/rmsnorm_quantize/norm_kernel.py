"""RMSNorm on fp32 values, as device functions: what the kernels of the room share.

What is quantized may be 2^-20 off the definition, relative (`quantmux.ops.quantize.compare`). That
alone would not do: with a weight of ones v / s is x / max(x) · 448, and many such quotients of
16-bit values lie exactly between two codes. The last bits of r, v and s decide which way they go,
so these are made as the definition makes them, but for a rare last bit of r:

* 128 squares at a time are summed in fp32, those sums in fp64. Squares of 16-bit values are exact;
  the errors of 128 terms are about half a unit and average over the parts, so that the mean of
  4096 columns is off by a tenth of a unit before it is rounded as the definition rounds it. One row
  in 12 then had another r, by its last bit.
* The root is the GPU's approximate one and one step of Newton's with an exact residual: within
  2^-44 of 1 / sqrt(a) before it is rounded.
* v / s is corrected once, which leaves 2^-44 before it is rounded.

At the very worst, where every rounding of the sum errs to the same side, r is off by 2^-20.6.

Which numbers are added in which order depends on the config and on whether x is aligned, never on
M: a row's codes are the same in any batch.
"""

import triton
import triton.language as tl

from quantmux_triton.numerics_kernel import RECIPROCAL, inverse_of, widen
from quantmux_triton.silu_mul_quantize.silu_kernel import reciprocal

_INFINITY = tl.constexpr(float("inf"))
# from here on an operand of the root is moved, so that no product of its residual is subnormal
_LARGE = tl.constexpr(2.0**64)
_DOWN = tl.constexpr(2.0**-64)
_ROOT_OF_DOWN = tl.constexpr(2.0**-32)
_TERMS = tl.constexpr(128)


@triton.jit
def load_rows(
    x, row, column, m, row_stride, column_stride,
    N: tl.constexpr, END: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Give values of rows as fp32 [R, C], 0 outside of the matrix.

    Args:
        x: Values [m, N].
        row: int32 [R] rows.
        column: int32 [C] columns.
        m: Rows of x.
        row_stride: Elements between rows of x.
        column_stride: Elements between columns of x, 1 when ALIGNED.
        N: Columns of x.
        END: Columns that the blocks of a row reach over, N or more.
        ALIGNED: Rows of x begin at multiples of 16 bytes and have no gaps between columns.
    """
    inside = (row < m)[:, None]
    if END > N:
        inside = inside & (column < N)[None, :]
    place = column if ALIGNED else column.to(tl.int64) * column_stride
    source = x + (row.to(tl.int64) * row_stride)[:, None] + place[None, :]
    if ALIGNED:
        # said of every address: what is said of an argument does not reach the compiler
        source = tl.multiple_of(source, (1, 16))
    return widen(tl.load(source, inside, other=0.0))


@triton.jit
def load_weight(weight, column, weight_stride, N: tl.constexpr, ALIGNED: tl.constexpr):
    """Give the weights of columns as fp32 [1, C], 0 from N on.

    Args:
        weight: Values [N].
        column: int32 [C] columns.
        weight_stride: Elements between weights, 1 when ALIGNED.
        N: Columns of x.
        ALIGNED: The weight begins at a multiple of 16 bytes and has no gaps.
    """
    place = column if ALIGNED else column.to(tl.int64) * weight_stride
    source = (weight + place)[None, :]
    if ALIGNED:
        source = tl.multiple_of(source, (1, 16))
    return widen(tl.load(source, (column < N)[None, :], other=0.0))


@triton.jit
def sum_of_squares(value, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Give the sums of the squares of fp32 [ROWS, BLOCK] as fp64 [ROWS]."""
    parts = tl.reshape(value * value, (ROWS, BLOCK // _TERMS, _TERMS))
    return tl.sum(tl.sum(parts, axis=2).to(tl.float64), axis=1)


@triton.jit
def walked_sum_of_squares(
    x, row, m, row_stride, column_stride,
    N: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Give the sums of x² of rows as fp64 [ROWS], walking over them in blocks of columns.

    Args:
        x: Values [m, N].
        row: int32 [ROWS] rows.
        m: Rows of x.
        row_stride: Elements between rows of x.
        column_stride: Elements between columns of x, 1 when ALIGNED.
        N: Columns of x.
        ROWS: Rows of a program.
        BLOCK: Columns at a time.
        ALIGNED: As of `load_rows`.
    """
    END: tl.constexpr = (N + BLOCK - 1) // BLOCK * BLOCK
    total = tl.zeros((ROWS,), tl.float64)
    for start in range(0, N, BLOCK):
        column = tl.arange(0, BLOCK) + start
        value = load_rows(x, row, column, m, row_stride, column_stride, N, END, ALIGNED)
        total += sum_of_squares(value, ROWS, BLOCK)
    return total


@triton.jit
def inverse_rms(squares, norm_eps, N: tl.constexpr, FAST: tl.constexpr):
    """Give ``1 / sqrt(squares / N + norm_eps)`` as fp32 [R]; Inf gives 0.

    Args:
        squares: fp64 [R].
        norm_eps: fp32, normal: what it is added to may be subnormal.
        N: Columns.
        FAST: Whether NVIDIA's approximate root and an fma that rounds once are there; else fp64.
    """
    INVERSE_N: tl.constexpr = 1.0 / N
    a = (squares * INVERSE_N).to(tl.float32) + norm_eps
    if FAST:
        is_large = a > _LARGE
        b = a * tl.where(is_large, _DOWN, 1.0)
        y = tl.rsqrt(b)
        minus_b = b * -1.0
        p = y * y
        # 1 - b·y²: p and what its rounding lost
        rest = tl.fma(y, y, p * -1.0)
        residual = tl.fma(minus_b, rest, tl.fma(minus_b, p, tl.full(a.shape, 1.0, tl.float32)))
        r = tl.fma(y * 0.5, residual, y) * tl.where(is_large, _ROOT_OF_DOWN, 1.0)
        r = tl.where(a == _INFINITY, 0.0, r)
    else:
        r = (1.0 / tl.sqrt(a.to(tl.float64))).to(tl.float32)
    return r


@triton.jit
def inverse_scale(scale, HOW: tl.constexpr, FAST: tl.constexpr):
    """Give what `quotient` needs beside scales: 1 / scale, exact or to a unit in the last place."""
    return inverse_of(scale, RECIPROCAL) if HOW == RECIPROCAL else reciprocal(scale, FAST)
