"""Quantizing rows in groups of G columns: fp8 or int8 codes, one fp32 or UE8M0 scale a group.

One program takes a tile of ROWS rows x TILE groups, as a tensor [ROWS, TILE, G]. The last axis lies
along memory, so a group is in 8 lanes of 16 elements (G = 128): loads and stores are of 16 bytes,
and the maximum of a group is 15 steps in a register and 3 between lanes. Every lane of a group
computes its scale; the value is the same and costs no exchange. Nothing is shared between tiles, so
one launch does all, and the tiles reach over the padded extents: what is outside the matrix is
loaded as 0, and its codes and scales are stored as 0.

A tile of several rows lets the scales of a column-major layout leave as whole sectors; a tile of
one row has the data of a row in the fewest pieces.
"""

import triton
import triton.language as tl

from quantmux_triton.numerics_kernel import (
    inverse_of,
    magnitude_bits,
    quotient,
    scale_of,
    to_code,
    widen,
)
from quantmux_triton.quantize.group_scales_kernel import store_group_scales

_POINTERS = ("x", "data", "scales")
_INTEGERS = ("m", "padded_m", "ld", "row_stride", "column_stride")


@triton.jit(do_not_specialize=_INTEGERS, do_not_specialize_on_alignment=_POINTERS)
def fp8_group_kernel(
    x, data, scales,
    m, padded_m, ld, row_stride, column_stride, eps, scale_ub,
    N: tl.constexpr, PADDED_N: tl.constexpr, G: tl.constexpr,
    ROWS: tl.constexpr, TILE: tl.constexpr, LAYOUT: tl.constexpr,
    FORMAT: tl.constexpr, HW: tl.constexpr, HOW: tl.constexpr,
    FMAX: tl.constexpr, HAS_UB: tl.constexpr, POW2: tl.constexpr,
    ALIGNED: tl.constexpr, STORE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Quantize one tile.

    Args:
        x: Values [m, N]; columns ``column_stride`` elements apart, 1 when ALIGNED.
        data: One byte an element, [padded_m, PADDED_N], contiguous.
        scales: fp32, int32 when packed; see `store_group_scales`.
        m: Rows of x.
        padded_m: Rows of data.
        ld: Rows of a column of scales.
        row_stride: Elements between rows of x.
        column_stride: Elements between columns of x.
        eps: Floor of a group's amax.
        scale_ub: Ceiling of a group's amax, read when HAS_UB.
        N: Columns of x.
        PADDED_N: Columns of data.
        G: Columns of a group, a power of two.
        ROWS: Rows of a tile.
        TILE: Groups of a tile.
        LAYOUT: Where the scales go.
        FORMAT: What a code is.
        HW: Whether the instruction makes fp8.
        HOW: How values are divided by the scale.
        FMAX: Largest magnitude of a code.
        HAS_UB: Whether amax has a ceiling.
        POW2: Whether scales are powers of two.
        ALIGNED: Rows of x begin at multiples of 16 bytes and have no gaps between columns.
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
    place = column if ALIGNED else column.to(tl.int64) * column_stride
    inside = (row < m)[:, None, None]
    if ACROSS * TILE * G > N:
        inside = inside & (column < N)[None, :, :]
    source = x + (row.to(tl.int64) * row_stride)[:, None, None] + place[None, :, :]
    if ALIGNED:
        # said of every address: what is said of an argument does not reach the compiler
        source = tl.multiple_of(source, (16, 16, 16))
    value = widen(tl.load(source, inside, other=0.0))

    scale = scale_of(tl.max(magnitude_bits(value), axis=2), eps, scale_ub, FMAX, HAS_UB, POW2)
    inverse = inverse_of(scale, HOW)
    code = to_code(quotient(value, scale[:, :, None], inverse[:, :, None], HOW), FORMAT, HW)
    if N != PADDED_N:
        # Padding is 0 whatever the scale is: that of a group partly outside may be NaN. Nor must a
        # group be converted that is known to be outside when this compiles: of conversions that
        # are known to be equal, ptxas 12.8 merges the wrong halves (seen on an H200)
        code = tl.where((column < N)[None, :, :], code, 0)

    target = data + (row.to(tl.int64) * PADDED_N)[:, None, None] + column[None, :, :]
    target = tl.multiple_of(target, (STORE, STORE, STORE))
    stored = (row < padded_m)[:, None, None]
    if PADDED_N % (TILE * G) != 0:
        stored = stored & (column < PADDED_N)[None, :, :]
    tl.store(target, code, stored)

    exists = (row < m)[:, None] & (group * G < N)[None, :]
    store_group_scales(
        scales, tl.where(exists, scale, 0.0), row, group, ld, padded_m, GROUPS, LAYOUT, TILE
    )
