"""``silu(gate) · up`` quantized in groups of G columns: fp8 codes, one fp32 or UE8M0 scale a group.

x [m, 2N] holds gates left and ups right. One program takes a tile of ROWS rows x TILE groups of the
product, as a tensor [ROWS, TILE, G]: it loads the two halves' tiles, both before anything is
computed, so that twice the bytes are under way. The product stays in registers in fp32; what it
would be in bf16 is nobody's. It is multiplied by the reciprocal of its scale, not divided: that is
within 2 units in the last place of a number that itself is only within 2^-20. The rest is as in
``quantize/fp8_group_kernel.py``: a group in 8 lanes of 16 elements, loads and stores of 16 bytes,
tiles that reach over the padded extents and store zeros there, so that one launch writes all bytes.
"""

import triton
import triton.language as tl

from quantmux_triton.numerics_kernel import (
    magnitude_bits,
    to_code,
    widen,
)
from quantmux_triton.quantize.group_scales_kernel import store_group_scales
from quantmux_triton.silu_mul_quantize.scale_kernel import scale_of_constant
from quantmux_triton.silu_mul_quantize.silu_kernel import reciprocal, silu_mul

_POINTERS = ("x", "data", "scales")
_INTEGERS = ("m", "padded_m", "ld", "row_stride", "column_stride")


@triton.jit(do_not_specialize=_INTEGERS, do_not_specialize_on_alignment=_POINTERS)
def silu_mul_fp8_group_kernel(
    x, data, scales,
    m, padded_m, ld, row_stride, column_stride, eps, scale_ub,
    N: tl.constexpr, PADDED_N: tl.constexpr, G: tl.constexpr,
    ROWS: tl.constexpr, TILE: tl.constexpr, LAYOUT: tl.constexpr,
    FORMAT: tl.constexpr, HW: tl.constexpr, FAST_SILU: tl.constexpr,
    FMAX: tl.constexpr, HAS_UB: tl.constexpr, POW2: tl.constexpr, MULTIPLIED: tl.constexpr,
    ALIGNED: tl.constexpr, STORE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Quantize one tile of the product.

    Args:
        x: Values [m, 2N]; columns ``column_stride`` elements apart, 1 when ALIGNED.
        data: [padded_m, PADDED_N] of one-byte elements, contiguous.
        scales: fp32, int32 when packed; see `store_group_scales`.
        m: Rows of x.
        padded_m: Rows of data.
        ld: Rows of a column of scales.
        row_stride: Elements between rows of x.
        column_stride: Elements between columns of x.
        eps: Floor of a group's amax.
        scale_ub: Ceiling of a group's amax, read when HAS_UB.
        N: Columns of the product.
        PADDED_N: Columns of data.
        G: Columns of a group, a power of two.
        ROWS: Rows of a tile.
        TILE: Groups of a tile.
        LAYOUT: Where the scales go.
        FORMAT: What a code is.
        HW: Whether the instruction makes fp8.
        FAST_SILU: Whether the GPU's instructions make exp and the reciprocal.
        FMAX: Largest magnitude of a code.
        HAS_UB: Whether amax has a ceiling.
        POW2: Whether scales are powers of two.
        MULTIPLIED: As of `scale_of_constant`.
        ALIGNED: Rows of both halves begin at multiples of 16 bytes, without gaps between columns.
        STORE: Bytes that a store may take at once: a divisor of PADDED_N and of data's address.
        PDL: Whether the launch depends on the one before programmatically.
    """
    GROUPS: tl.constexpr = (PADDED_N + G - 1) // G
    ACROSS: tl.constexpr = (GROUPS + TILE - 1) // TILE
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    data = data.to(tl.pointer_type(tl.uint8), bitcast=True)
    program = tl.program_id(0)
    row = program // ACROSS * ROWS + tl.arange(0, ROWS)
    group = program % ACROSS * TILE + tl.arange(0, TILE)
    column = group[:, None] * G + tl.arange(0, G)[None, :]
    if ALIGNED:
        place = column
        half = N
    else:
        place = column.to(tl.int64) * column_stride
        half = column_stride.to(tl.int64) * N
    inside = (row < m)[:, None, None]
    if N % (TILE * G) != 0 or PADDED_N > N:
        inside = inside & (column < N)[None, :, :]
    at = (row.to(tl.int64) * row_stride)[:, None, None] + place[None, :, :]
    gates = x + at
    ups = gates + half
    if ALIGNED:
        gates = tl.multiple_of(gates, (1, 1, 16))
        ups = tl.multiple_of(ups, (1, 1, 16))
    gate = widen(tl.load(gates, inside, other=0.0))
    up = widen(tl.load(ups, inside, other=0.0))
    value = silu_mul(gate, up, FAST_SILU)

    amax = tl.max(magnitude_bits(value), axis=2)
    scale = scale_of_constant(amax, eps, scale_ub, FMAX, HAS_UB, POW2, MULTIPLIED)
    inverse = reciprocal(scale, FAST_SILU)
    code = to_code(value * inverse[:, :, None], FORMAT, HW)
    if N != PADDED_N:
        # a group that lies partly outside has a scale, and a NaN scale must not reach the padding;
        # of a group wholly outside nothing is converted: ptxas 12.8 garbles codes of equal values
        code = tl.where((column < N)[None, :, :], code, 0)

    to = (row.to(tl.int64) * PADDED_N)[:, None, None] + column[None, :, :]
    stored = (row < padded_m)[:, None, None]
    if PADDED_N % (TILE * G) != 0:
        stored = stored & (column < PADDED_N)[None, :, :]
    tl.store(tl.multiple_of(data + to, (1, 1, STORE)), code, stored)

    exists = (row < m)[:, None] & (group * G < N)[None, :]
    store_group_scales(
        scales, tl.where(exists, scale, 0.0), row, group, ld, padded_m, GROUPS, LAYOUT, TILE
    )
