"""``silu(gate) · up`` quantized with one scale a row: fp8 or int8 codes.

A row of the product that fits is held in registers between its maximum and its codes. A longer row
is walked twice by the same program, a block of columns at a time: the second walk finds gates and
ups in the cache and computes the product again, which is cheaper than any place to keep it. One
program takes several short rows.
"""

import triton
import triton.language as tl

from quantmux_triton.numerics_kernel import magnitude_bits, scale_of, to_code
from quantmux_triton.silu_mul_quantize.product_kernel import load_product, store_codes
from quantmux_triton.silu_mul_quantize.silu_kernel import reciprocal

_POINTERS = ("x", "data", "scales")
_INTEGERS = ("m", "padded_m", "row_stride", "column_stride")


@triton.jit(do_not_specialize=_INTEGERS, do_not_specialize_on_alignment=_POINTERS)
def silu_mul_token_kernel(
    x, data, scales,
    m, padded_m, row_stride, column_stride, eps, scale_ub,
    N: tl.constexpr, PADDED_N: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    FORMAT: tl.constexpr, HW: tl.constexpr, FAST_SILU: tl.constexpr,
    FMAX: tl.constexpr, HAS_UB: tl.constexpr, POW2: tl.constexpr,
    ALIGNED: tl.constexpr, STORE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Quantize ROWS rows of the product.

    Args:
        x: Values [m, 2N]; columns ``column_stride`` elements apart, 1 when ALIGNED.
        data: [padded_m, PADDED_N] of one-byte elements, contiguous.
        scales: fp32 [padded_m].
        m: Rows of x.
        padded_m: Rows of data.
        row_stride: Elements between rows of x.
        column_stride: Elements between columns of x.
        eps: Floor of a row's amax.
        scale_ub: Ceiling of a row's amax, read when HAS_UB.
        N: Columns of the product.
        PADDED_N: Columns of data.
        ROWS: Rows of a program, a power of two.
        BLOCK: Columns at a time, a power of two; from PADDED_N on a row is held.
        FORMAT: What a code is.
        HW: Whether the instruction makes fp8.
        FAST_SILU: Whether the GPU's instructions make exp and the reciprocal.
        FMAX: Largest magnitude of a code.
        HAS_UB: Whether amax has a ceiling.
        POW2: Whether scales are powers of two.
        ALIGNED: Rows of both halves begin at multiples of 16 bytes, without gaps between columns.
        STORE: Bytes that a store may take at once: a divisor of PADDED_N and of data's address.
        PDL: Whether the launch depends on the one before programmatically.
    """
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    data = data.to(tl.pointer_type(tl.uint8), bitcast=True)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    if BLOCK >= PADDED_N:
        value = load_product(
            x, row, column, m, row_stride, column_stride, N, PADDED_N, BLOCK, ALIGNED, FAST_SILU
        )
        amax = tl.max(magnitude_bits(value), axis=1)
        scale = scale_of(amax, eps, scale_ub, FMAX, HAS_UB, POW2)
        code = to_code(value * reciprocal(scale, FAST_SILU)[:, None], FORMAT, HW)
        store_codes(data, code, row, column, m, padded_m, N, PADDED_N, BLOCK, STORE)
    else:
        most = tl.zeros((ROWS, BLOCK), tl.int32)
        for start in range(0, N, BLOCK):
            value = load_product(
                x,
                row,
                column + start,
                m,
                row_stride,
                column_stride,
                N,
                PADDED_N,
                BLOCK,
                ALIGNED,
                FAST_SILU,
            )
            most = tl.maximum(most, magnitude_bits(value))
        scale = scale_of(tl.max(most, axis=1), eps, scale_ub, FMAX, HAS_UB, POW2)
        inverse = reciprocal(scale, FAST_SILU)
        for start in range(0, PADDED_N, BLOCK):
            value = load_product(
                x,
                row,
                column + start,
                m,
                row_stride,
                column_stride,
                N,
                PADDED_N,
                BLOCK,
                ALIGNED,
                FAST_SILU,
            )
            code = to_code(value * inverse[:, None], FORMAT, HW)
            store_codes(data, code, row, column + start, m, padded_m, N, PADDED_N, BLOCK, STORE)
    tl.store(scales + row, tl.where(row < m, scale, 0.0), row < padded_m)
