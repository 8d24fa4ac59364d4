"""RMSNorm quantized in groups of G columns: fp8 codes, one fp32 or UE8M0 scale a group.

A group needs its whole row first, for the mean. One program takes ROWS whole rows, 32 values a
thread; a row that fits is loaded once and stays in registers between its mean, its maxima and its
codes. A longer row is walked twice by the same program, a block of TILE groups at a time, and the
second walk finds it in the cache. The weight is asked for together with x, but not before the
launch ahead has ended: it is an argument of the call, and a kernel of ours may have just written it
(a norm whose weight a linear makes from a condition).

Tiles reach over the padded extents and store zeros there, so that one launch writes all bytes.
"""

import triton
import triton.language as tl

from quantmux_triton.numerics_kernel import magnitude_bits, quotient, to_code
from quantmux_triton.quantize.group_scales_kernel import store_group_scales
from quantmux_triton.rmsnorm_quantize.norm_kernel import (
    inverse_rms,
    inverse_scale,
    load_rows,
    load_weight,
    sum_of_squares,
    walked_sum_of_squares,
)
from quantmux_triton.silu_mul_quantize.product_kernel import store_codes
from quantmux_triton.silu_mul_quantize.scale_kernel import scale_of_constant

_POINTERS = ("x", "weight", "data", "scales")
_INTEGERS = ("m", "padded_m", "ld", "row_stride", "column_stride", "weight_stride")


@triton.jit(do_not_specialize=_INTEGERS, do_not_specialize_on_alignment=_POINTERS)
def rmsnorm_fp8_group_kernel(
    x, weight, data, scales,
    m, padded_m, ld, row_stride, column_stride, weight_stride, norm_eps, eps, scale_ub,
    N: tl.constexpr, PADDED_N: tl.constexpr, G: tl.constexpr,
    ROWS: tl.constexpr, TILE: tl.constexpr, LAYOUT: tl.constexpr,
    FORMAT: tl.constexpr, HW: tl.constexpr, HOW: tl.constexpr, FAST: tl.constexpr,
    FMAX: tl.constexpr, HAS_UB: tl.constexpr, POW2: tl.constexpr, MULTIPLIED: tl.constexpr,
    ALIGNED: tl.constexpr, STORE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Normalize and quantize ROWS rows.

    Args:
        x: Values [m, N]; columns ``column_stride`` elements apart, 1 when ALIGNED.
        weight: Values [N], ``weight_stride`` elements apart, 1 when ALIGNED.
        data: [padded_m, PADDED_N] of one-byte elements, contiguous.
        scales: fp32, int32 when packed; see `store_group_scales`.
        m: Rows of x.
        padded_m: Rows of data.
        ld: Rows of a column of scales.
        row_stride: Elements between rows of x.
        column_stride: Elements between columns of x.
        weight_stride: Elements between weights.
        norm_eps: Added to the mean of squares.
        eps: Floor of a group's amax.
        scale_ub: Ceiling of a group's amax, read when HAS_UB.
        N: Columns of x.
        PADDED_N: Columns of data.
        G: Columns of a group, a power of two.
        ROWS: Rows of a program, a power of two.
        TILE: Groups at a time, a power of two; a row is held where they cover one.
        LAYOUT: Where the scales go.
        FORMAT: What a code is.
        HW: Whether the instruction makes fp8.
        HOW: How values are divided by the scale.
        FAST: Whether the GPU's instructions make the root and the reciprocal of a scale.
        FMAX: Largest magnitude of a code.
        HAS_UB: Whether amax has a ceiling.
        POW2: Whether scales are powers of two.
        MULTIPLIED: As of `scale_of_constant`.
        ALIGNED: Rows of x and the weight begin at multiples of 16 bytes, without gaps.
        STORE: Bytes that a store may take at once: a divisor of PADDED_N and of data's address.
        PDL: Whether the launch depends on the one before programmatically.
    """
    BLOCK: tl.constexpr = TILE * G
    END: tl.constexpr = (PADDED_N + BLOCK - 1) // BLOCK * BLOCK
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    data = data.to(tl.pointer_type(tl.uint8), bitcast=True)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    group = tl.arange(0, TILE)
    if BLOCK >= PADDED_N:
        value = load_rows(x, row, column, m, row_stride, column_stride, N, END, ALIGNED)
        gain = load_weight(weight, column, weight_stride, N, ALIGNED)
        r = inverse_rms(sum_of_squares(value, ROWS, BLOCK), norm_eps, N, FAST)
        value = value * r[:, None] * gain
        _quantize(
            value, data, scales, row, column, group, m, padded_m, ld, eps, scale_ub,
            N, PADDED_N, G, ROWS, TILE, LAYOUT, FORMAT, HW, HOW, FAST, FMAX, HAS_UB, POW2,
            MULTIPLIED, STORE,
        )  # fmt: skip
    else:
        squares = walked_sum_of_squares(
            x, row, m, row_stride, column_stride, N, ROWS, BLOCK, ALIGNED
        )
        r = inverse_rms(squares, norm_eps, N, FAST)[:, None]
        for start in range(0, PADDED_N, BLOCK):
            here = column + start
            value = load_rows(x, row, here, m, row_stride, column_stride, N, END, ALIGNED)
            gain = load_weight(weight, here, weight_stride, N, ALIGNED)
            _quantize(
                value * r * gain, data, scales, row, here, group + start // G, m, padded_m, ld,
                eps, scale_ub, N, PADDED_N, G, ROWS, TILE, LAYOUT, FORMAT, HW, HOW, FAST, FMAX,
                HAS_UB, POW2, MULTIPLIED, STORE,
            )  # fmt: skip


@triton.jit
def _quantize(
    value, data, scales, row, column, group, m, padded_m, ld, eps, scale_ub,
    N: tl.constexpr, PADDED_N: tl.constexpr, G: tl.constexpr,
    ROWS: tl.constexpr, TILE: tl.constexpr, LAYOUT: tl.constexpr,
    FORMAT: tl.constexpr, HW: tl.constexpr, HOW: tl.constexpr, FAST: tl.constexpr,
    FMAX: tl.constexpr, HAS_UB: tl.constexpr, POW2: tl.constexpr, MULTIPLIED: tl.constexpr,
    STORE: tl.constexpr,
):  # fmt: skip
    """Quantize a tile fp32 [ROWS, TILE · G] and store its codes and scales.

    What lies in padded rows and columns is stored as 0, whatever ``value`` is there: a weight that
    is no number makes 0 · weight none either.
    """
    BLOCK: tl.constexpr = TILE * G
    GROUPS: tl.constexpr = (PADDED_N + G - 1) // G
    amax = tl.max(tl.reshape(magnitude_bits(value), (ROWS, TILE, G)), axis=2)
    scale = scale_of_constant(amax, eps, scale_ub, FMAX, HAS_UB, POW2, MULTIPLIED)
    by = tl.reshape(tl.broadcast_to(scale[:, :, None], (ROWS, TILE, G)), (ROWS, BLOCK))
    inverse = tl.broadcast_to(inverse_scale(scale, HOW, FAST)[:, :, None], (ROWS, TILE, G))
    quotients = quotient(value, by, tl.reshape(inverse, (ROWS, BLOCK)), HOW)
    code = to_code(quotients, FORMAT, HW)
    store_codes(data, code, row, column, m, padded_m, N, PADDED_N, BLOCK, STORE)
    exists = (row < m)[:, None] & (group * G < N)[None, :]
    store_group_scales(
        scales, tl.where(exists, scale, 0.0), row, group, ld, padded_m, GROUPS, LAYOUT, TILE
    )
