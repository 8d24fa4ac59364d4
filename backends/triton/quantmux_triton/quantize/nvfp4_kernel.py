"""Quantizing rows to NVFP4: e2m1 codes, an e4m3 scale per 16 columns, any layout, any padding.

A thread has whole blocks (see ``nvfp4_block_kernel.py``); neighbouring lanes have neighbouring
blocks, four at least. So 4 lanes read 128 bytes and write 32, and the scale bytes of a warp are one
whole sector in every layout (`blocks_of`).

Programs reach over the padded extents of data *and* of scales: what is outside of the matrix is
stored as 0. Programs without any row of the matrix (of 128 rows of scales when M = 1) load nothing.

With a global scale that is given there is one launch. Without one, `nvfp4_amax_kernel` goes before:
every program stores the largest finite magnitude that it met in a place of its own, and every
program of the second launch takes the maximum of those places. A maximum is the same in any order:
no atomics, and no memory that has to be reset. The second launch takes the tiles from the last to
the first: what the first read last is what the cache still has.
"""

import triton
import triton.language as tl

from quantmux_triton.quantize.nvfp4_block_kernel import (
    blocks_of,
    finite_bits,
    global_scale_of,
    quantized_block,
    scale_place,
    store_codes,
    values_of_eight,
)
from quantmux_triton.silu_mul_quantize.silu_kernel import silu_mul

_POINTERS = ("x", "data", "scales", "source", "global_scale")
_INTEGERS = ("m", "padded_m", "row_stride", "column_stride", "parts")
_AMAX_INTEGERS = ("m", "row_stride", "column_stride")


@triton.jit(do_not_specialize=_AMAX_INTEGERS, do_not_specialize_on_alignment=("x", "partial"))
def nvfp4_amax_kernel(
    x, partial, m, row_stride, column_stride,
    N: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    SILU: tl.constexpr, HW_SILU: tl.constexpr, ALIGNED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Store the bits of the largest finite magnitude of every program's tiles, int32 [programs].

    Args:
        x: Values [m, N]; columns ``column_stride`` elements apart, 1 when ALIGNED.
        partial: int32 [programs].
        m: Rows of x.
        row_stride: Elements between rows of x.
        column_stride: Elements between columns of x.
        N: Columns of x.
        ROWS: Rows of a tile, a power of two.
        BLOCK: Columns of a tile, a power of two.
        SILU: Whether x is [m, 2N] = [gate | up] and silu(gate) * up is looked at.
        HW_SILU: Whether 2^x and 1/x are instructions.
        ALIGNED: Rows of x begin at multiples of 16 bytes and have no gaps between columns.
        PDL: Whether the launch depends on the one before programmatically.
    """
    ACROSS: tl.constexpr = (N + BLOCK - 1) // BLOCK
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    most = tl.zeros((ROWS, BLOCK), tl.int32)
    # no `range`: with numpy 2.4 the interpreter of Triton 3.6 cannot count to a number of its own
    tile = tl.program_id(0)
    while tile < tl.cdiv(m, ROWS) * ACROSS:
        row = tile // ACROSS * ROWS + tl.arange(0, ROWS)
        column = tile % ACROSS * BLOCK + tl.arange(0, BLOCK)
        inside = (row < m)[:, None]
        if N % BLOCK != 0:
            inside = inside & (column < N)[None, :]
        place = column if ALIGNED else column.to(tl.int64) * column_stride
        at = (row.to(tl.int64) * row_stride)[:, None] + place[None, :]
        pointer = x + at
        if ALIGNED:
            pointer = tl.multiple_of(pointer, (16, 16))
        value = tl.load(pointer, inside, other=0.0).to(tl.float32)
        if SILU:
            beside = at + N if ALIGNED else at + column_stride.to(tl.int64) * N
            pointer = x + beside
            if ALIGNED:
                pointer = tl.multiple_of(pointer, (16, 16))
            up = tl.load(pointer, inside, other=0.0).to(tl.float32)
            value = silu_mul(value, up, HW_SILU)
        most = tl.maximum(most, finite_bits(value))
        tile += tl.num_programs(0)
    tl.store(partial + tl.program_id(0), tl.max(tl.max(most, axis=1), axis=0))


@triton.jit(do_not_specialize=_INTEGERS, do_not_specialize_on_alignment=_POINTERS)
def nvfp4_kernel(
    x, data, scales, source, global_scale,
    m, padded_m, row_stride, column_stride, parts,
    N: tl.constexpr, PADDED_N: tl.constexpr, ROWS: tl.constexpr, QUADS: tl.constexpr,
    LAYOUT: tl.constexpr, PARTS: tl.constexpr, HW8: tl.constexpr, FORM: tl.constexpr,
    SILU: tl.constexpr, HW_SILU: tl.constexpr, ALIGNED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Quantize one tile; the first program stores the global scale.

    Args:
        x: Values [m, N]; columns ``column_stride`` elements apart, 1 when ALIGNED.
        data: uint8 [padded_m, PADDED_N / 2], contiguous.
        scales: uint8, the e4m3 scales; see `scale_place`.
        source: int32 [parts] of `nvfp4_amax_kernel`; or the given global scale, fp32 [1] when PARTS
            is 0, its bits as int32 [1] when only parts is.
        global_scale: fp32 [1], written.
        m: Rows of x.
        padded_m: Rows of data.
        row_stride: Elements between rows of x.
        column_stride: Elements between columns of x.
        parts: Numbers in ``source``, at most PARTS.
        N: Columns of x.
        PADDED_N: Columns of data, a multiple of 16.
        ROWS: Rows of a tile, a power of two; a multiple of 4 in 128x4, 1 in row_major.
        QUADS: Quads of blocks of a tile, a power of two.
        LAYOUT: Where the scales go.
        PARTS: A power of two, or 0 for a given global scale.
        HW8: Whether the instruction makes fp8.
        FORM: How e2m1 is made.
        SILU: Whether x is [m, 2N] = [gate | up] and silu(gate) * up is quantized.
        HW_SILU: Whether 2^x and 1/x are instructions.
        ALIGNED: Rows of x begin at multiples of 16 bytes without gaps between columns, and data at
            a multiple of 8.
        PDL: Whether the launch depends on the one before programmatically.
    """
    GROUPS: tl.constexpr = PADDED_N // 16
    program = tl.program_id(0) if PARTS == 0 else tl.num_programs(0) - 1 - tl.program_id(0)
    lane = tl.arange(0, QUADS * ROWS * 4)
    first, row, group = blocks_of(program, lane, GROUPS, ROWS, QUADS, LAYOUT)
    place, has_scale = scale_place(row, group, padded_m, GROUPS, LAYOUT)
    has_data = (group < GROUPS) & (row < padded_m)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    if first < m:
        inside = (row < m) & (group * 16 < N)
        at = row.to(tl.int64) * row_stride
        low = values_of_eight(x, at, inside, group * 16, column_stride, N, ALIGNED, SILU, HW_SILU)
        high = values_of_eight(
            x, at, inside, group * 16 + 8, column_stride, N, ALIGNED, SILU, HW_SILU
        )
        # after the loads of x: its division branches, and loads are not moved over a branch
        g = _global_scale(source, parts, PARTS)
        tl.store(global_scale, g, program == 0)
        inverse_global = tl.max(tl.div_rn(tl.full((1,), 1.0, tl.float32), g), axis=0)
        scale, low_codes, high_codes = quantized_block(low, high, inside, inverse_global, HW8, FORM)
        tl.store(scales + place, scale, has_scale)
        store_codes(data, low_codes, high_codes, row, group, has_data, PADDED_N, ALIGNED)
    else:
        tl.store(scales + place, tl.zeros_like(lane).to(tl.uint8), has_scale)
        if first < padded_m:
            none = tl.zeros_like(lane)
            store_codes(data, none, none, row, group, has_data, PADDED_N, ALIGNED)


@triton.jit
def _global_scale(source, parts, PARTS: tl.constexpr):
    """Give g, fp32 scalar; see `nvfp4_kernel`."""
    if PARTS == 0:
        g = tl.load(source)
    elif parts == 0:
        g = tl.load(source).to(tl.float32, bitcast=True)
    else:
        part = tl.arange(0, PARTS)
        bits = tl.max(tl.load(source + part, part < parts, other=0), axis=0)
        g = tl.max(global_scale_of(bits + tl.zeros((1,), tl.int32)), axis=0)
    return g
