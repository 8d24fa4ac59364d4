"""RMSNorm quantized with one scale a row, or with one that is given: fp8 or int8 codes.

One program takes ROWS whole rows, 32 values a thread. A row that fits is loaded once and stays in
registers between its mean, its maximum and its codes. A longer row is walked a block of columns at
a time by the same program, twice where the scale is given and else three times: for the mean, for
the maximum, for the codes. All but the first walk find it in the cache. As in
``fp8_group_kernel.py`` the weight is asked for together with x, after the launch ahead has ended.
"""

import triton
import triton.language as tl

from quantmux_triton.numerics_kernel import DIVIDE, magnitude_bits, quotient, scale_of, to_code
from quantmux_triton.rmsnorm_quantize.norm_kernel import (
    inverse_rms,
    inverse_scale,
    load_rows,
    load_weight,
    sum_of_squares,
    walked_sum_of_squares,
)
from quantmux_triton.silu_mul_quantize.product_kernel import store_codes

# given scales by which the guarded forms of `quotient` are right
_LEAST = tl.constexpr(2.0**-80)
_MOST = tl.constexpr(2.0**120)
_UP = tl.constexpr(2.0**80)
_DOWN = tl.constexpr(2.0**-60)

_POINTERS = ("x", "weight", "data", "scales", "given")
_INTEGERS = ("m", "padded_m", "row_stride", "column_stride", "weight_stride")


@triton.jit(do_not_specialize=_INTEGERS, do_not_specialize_on_alignment=_POINTERS)
def rmsnorm_row_kernel(
    x, weight, data, scales, given,
    m, padded_m, row_stride, column_stride, weight_stride, norm_eps, eps, scale_ub,
    N: tl.constexpr, PADDED_N: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    GIVEN: tl.constexpr, FORMAT: tl.constexpr, HW: tl.constexpr, HOW: tl.constexpr,
    FAST: tl.constexpr, FMAX: tl.constexpr, HAS_UB: tl.constexpr, POW2: tl.constexpr,
    ALIGNED: tl.constexpr, STORE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Normalize and quantize ROWS rows.

    Args:
        x: Values [m, N]; columns ``column_stride`` elements apart, 1 when ALIGNED.
        weight: Values [N], ``weight_stride`` elements apart, 1 when ALIGNED.
        data: [padded_m, PADDED_N] of one-byte elements, contiguous.
        scales: fp32, written: [padded_m], or [1] by the first program when GIVEN.
        given: The given scale, fp32 [1], when GIVEN; else not read.
        m: Rows of x.
        padded_m: Rows of data.
        row_stride: Elements between rows of x.
        column_stride: Elements between columns of x.
        weight_stride: Elements between weights.
        norm_eps: Added to the mean of squares.
        eps: Floor of a row's amax.
        scale_ub: Ceiling of a row's amax, read when HAS_UB.
        N: Columns of x.
        PADDED_N: Columns of data.
        ROWS: Rows of a program, a power of two.
        BLOCK: Columns at a time, a power of two; from PADDED_N on a row is held.
        GIVEN: Whether there is one scale, and it is given.
        FORMAT: What a code is.
        HW: Whether the instruction makes fp8.
        HOW: How values are divided by the scale.
        FAST: Whether the GPU's instructions make the root and the reciprocal of a scale.
        FMAX: Largest magnitude of a code.
        HAS_UB: Whether amax has a ceiling.
        POW2: Whether scales are powers of two.
        ALIGNED: Rows of x and the weight begin at multiples of 16 bytes, without gaps.
        STORE: Bytes that a store may take at once: a divisor of PADDED_N and of data's address.
        PDL: Whether the launch depends on the one before programmatically.
    """
    END: tl.constexpr = (PADDED_N + BLOCK - 1) // BLOCK * BLOCK
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    data = data.to(tl.pointer_type(tl.uint8), bitcast=True)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    if BLOCK >= PADDED_N:
        value = load_rows(x, row, column, m, row_stride, column_stride, N, END, ALIGNED)
        gain = load_weight(weight, column, weight_stride, N, ALIGNED)
        r = inverse_rms(sum_of_squares(value, ROWS, BLOCK), norm_eps, N, FAST)
        value = value * r[:, None] * gain
        if GIVEN:
            scale = tl.load(given) + tl.zeros((ROWS,), tl.float32)
        else:
            amax = tl.max(magnitude_bits(value), axis=1)
            scale = scale_of(amax, eps, scale_ub, FMAX, HAS_UB, POW2)
        code = to_code(_quotients(value, scale[:, None], GIVEN, HOW, FAST), FORMAT, HW)
        store_codes(data, code, row, column, m, padded_m, N, PADDED_N, BLOCK, STORE)
    else:
        N_END: tl.constexpr = (N + BLOCK - 1) // BLOCK * BLOCK
        squares = walked_sum_of_squares(
            x, row, m, row_stride, column_stride, N, ROWS, BLOCK, ALIGNED
        )
        r = inverse_rms(squares, norm_eps, N, FAST)[:, None]
        if GIVEN:
            scale = tl.load(given) + tl.zeros((ROWS,), tl.float32)
        else:
            most = tl.zeros((ROWS, BLOCK), tl.int32)
            for start in range(0, N, BLOCK):
                here = column + start
                value = load_rows(x, row, here, m, row_stride, column_stride, N, N_END, ALIGNED)
                gain = load_weight(weight, here, weight_stride, N, ALIGNED)
                most = tl.maximum(most, magnitude_bits(value * r * gain))
            scale = scale_of(tl.max(most, axis=1), eps, scale_ub, FMAX, HAS_UB, POW2)
        for start in range(0, PADDED_N, BLOCK):
            here = column + start
            value = load_rows(x, row, here, m, row_stride, column_stride, N, END, ALIGNED)
            gain = load_weight(weight, here, weight_stride, N, ALIGNED)
            code = to_code(
                _quotients(value * r * gain, scale[:, None], GIVEN, HOW, FAST), FORMAT, HW
            )
            store_codes(data, code, row, here, m, padded_m, N, PADDED_N, BLOCK, STORE)
    if GIVEN:
        tl.store(scales, tl.load(given), tl.program_id(0) == 0)
    else:
        tl.store(scales + row, tl.where(row < m, scale, 0.0), row < padded_m)


@triton.jit
def _quotients(value, scale, GIVEN: tl.constexpr, HOW: tl.constexpr, FAST: tl.constexpr):
    """Give value / scale.

    A given scale may be of any size. Where it is outside of what the guarded forms allow, both are
    moved by the same power of two: a value that overflows by it has a quotient that saturates, one
    that loses bits has a quotient of code 0.
    """
    if GIVEN and HOW != DIVIDE:
        lift = tl.where(scale < _LEAST, _UP, tl.where(scale > _MOST, _DOWN, 1.0))
        value = value * lift
        scale = scale * lift
    return quotient(value, scale, inverse_scale(scale, HOW, FAST), HOW)
