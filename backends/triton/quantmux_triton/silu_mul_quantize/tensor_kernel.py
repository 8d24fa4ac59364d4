"""``silu(gate) · up`` quantized with one scale: fp8 or int8 codes.

With a scale that is given, one launch of `silu_mul_tensor_kernel` makes the codes. Without one,
`silu_mul_amax_kernel` goes before: every program walks over tiles of the product and stores the
largest magnitude it met, as bits, in a place of its own; `silu_mul_tensor_kernel` takes the maximum
of all those and computes the product again. Integers have one maximum in any order, so the result
is deterministic without atomics and without memory that has to be reset.
"""

import triton
import triton.language as tl

from quantmux_triton.numerics_kernel import magnitude_bits, scale_of, to_code
from quantmux_triton.silu_mul_quantize.product_kernel import load_product, store_codes
from quantmux_triton.silu_mul_quantize.silu_kernel import reciprocal

# given scales whose reciprocal is a normal number, with room for any product that does not saturate
_LEAST = tl.constexpr(2.0**-90)
_MOST = tl.constexpr(2.0**90)

_POINTERS = ("x", "data", "scales", "source")
_INTEGERS = ("m", "padded_m", "row_stride", "column_stride", "parts")
_AMAX_INTEGERS = ("m", "row_stride", "column_stride")


@triton.jit(do_not_specialize=_AMAX_INTEGERS, do_not_specialize_on_alignment=("x", "partial"))
def silu_mul_amax_kernel(
    x, partial, m, row_stride, column_stride,
    N: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, FAST_SILU: tl.constexpr,
    ALIGNED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Store the bits of the largest magnitude of every program's tiles, int32 [programs].

    Args:
        x: Values [m, 2N]; columns ``column_stride`` elements apart, 1 when ALIGNED.
        partial: int32 [programs].
        m: Rows of x.
        row_stride: Elements between rows of x.
        column_stride: Elements between columns of x.
        N: Columns of the product.
        ROWS: Rows of a tile, a power of two.
        BLOCK: Columns of a tile, a power of two.
        FAST_SILU: Whether the GPU's instructions make exp and the reciprocal.
        ALIGNED: Rows of both halves begin at multiples of 16 bytes, without gaps between columns.
        PDL: Whether the launch depends on the one before programmatically.
    """
    ACROSS: tl.constexpr = (N + BLOCK - 1) // BLOCK
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    program = tl.program_id(0)
    most = tl.zeros((ROWS, BLOCK), tl.int32)
    for tile in range(program, tl.cdiv(m, ROWS) * ACROSS, tl.num_programs(0)):
        row = tile // ACROSS * ROWS + tl.arange(0, ROWS)
        column = tile % ACROSS * BLOCK + tl.arange(0, BLOCK)
        value = load_product(
            x, row, column, m, row_stride, column_stride, N, N, BLOCK, ALIGNED, FAST_SILU
        )
        most = tl.maximum(most, magnitude_bits(value))
    tl.store(partial + program, tl.max(tl.max(most, axis=1), axis=0))


@triton.jit(do_not_specialize=_INTEGERS, do_not_specialize_on_alignment=_POINTERS)
def silu_mul_tensor_kernel(
    x, data, scales, source,
    m, padded_m, row_stride, column_stride, parts, eps, scale_ub,
    N: tl.constexpr, PADDED_N: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    PARTS: tl.constexpr, FORMAT: tl.constexpr, HW: tl.constexpr, FAST_SILU: tl.constexpr,
    FMAX: tl.constexpr, HAS_UB: tl.constexpr, POW2: tl.constexpr,
    ALIGNED: tl.constexpr, STORE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Quantize one tile of the product; the first program stores the scale.

    Args:
        x: Values [m, 2N]; columns ``column_stride`` elements apart, 1 when ALIGNED.
        data: [padded_m, PADDED_N] of one-byte elements, contiguous.
        scales: fp32 [1], written.
        source: What the scale comes from: int32 [parts] of `silu_mul_amax_kernel`, or the given
            scale, fp32 [1], when PARTS is 0.
        m: Rows of x.
        padded_m: Rows of data.
        row_stride: Elements between rows of x.
        column_stride: Elements between columns of x.
        parts: Numbers in ``source``, at most PARTS.
        eps: Floor of amax.
        scale_ub: Ceiling of amax, read when HAS_UB.
        N: Columns of the product.
        PADDED_N: Columns of data.
        ROWS: Rows of a tile, a power of two.
        BLOCK: Columns of a tile, a power of two.
        PARTS: A power of two, or 0 for a given scale.
        FORMAT: What a code is.
        HW: Whether the instruction makes fp8.
        FAST_SILU: Whether the GPU's instructions make exp and the reciprocal.
        FMAX: Largest magnitude of a code.
        HAS_UB: Whether amax has a ceiling.
        POW2: Whether the scale is a power of two.
        ALIGNED: Rows of both halves begin at multiples of 16 bytes, without gaps between columns.
        STORE: Bytes that a store may take at once: a divisor of PADDED_N and of data's address.
        PDL: Whether the launch depends on the one before programmatically.
    """
    ACROSS: tl.constexpr = (PADDED_N + BLOCK - 1) // BLOCK
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    data = data.to(tl.pointer_type(tl.uint8), bitcast=True)
    program = tl.program_id(0)
    # from the last to the first: what the first launch read last is what the cache still has
    tile = tl.num_programs(0) - 1 - program
    row = tile // ACROSS * ROWS + tl.arange(0, ROWS)
    column = tile % ACROSS * BLOCK + tl.arange(0, BLOCK)
    value = load_product(
        x,
        row,
        column,
        m,
        row_stride,
        column_stride,
        N,
        PADDED_N,
        BLOCK,
        ALIGNED,
        FAST_SILU,
        PARTS == 0,
    )
    if PARTS == 0:
        scale = tl.load(source)
        quotients = value
        if (scale >= _LEAST) & (scale <= _MOST):
            one = scale + tl.zeros((1, 1), tl.float32)
            quotients = value * reciprocal(one, FAST_SILU)
        else:
            quotients = tl.div_rn(value, scale + tl.zeros_like(value))
    else:
        part = tl.arange(0, PARTS)
        amax = tl.max(tl.load(source + part, part < parts, other=0), axis=0)
        # of one element, as there are no tensors of none
        block = scale_of(amax + tl.zeros((1,), tl.int32), eps, scale_ub, FMAX, HAS_UB, POW2)
        quotients = value * reciprocal(block, FAST_SILU)[:, None]
        scale = tl.sum(block, axis=0)
    code = to_code(quotients, FORMAT, HW)
    store_codes(data, code, row, column, m, padded_m, N, PADDED_N, BLOCK, STORE)
    tl.store(scales, scale, program == 0)
