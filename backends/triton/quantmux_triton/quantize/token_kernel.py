"""Quantizing rows with one scale a row: fp8 or int8 codes.

A row that fits is loaded once and held in registers: its maximum, its scale and its codes are made
from what was loaded. A longer row is walked twice by the same program, a block of columns at a
time; the second walk finds it in the cache. One program takes several short rows.
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

_POINTERS = ("x", "data", "scales")
_INTEGERS = ("m", "padded_m", "row_stride", "column_stride")


@triton.jit(do_not_specialize=_INTEGERS, do_not_specialize_on_alignment=_POINTERS)
def token_kernel(
    x, data, scales,
    m, padded_m, row_stride, column_stride, eps, scale_ub,
    N: tl.constexpr, PADDED_N: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    FORMAT: tl.constexpr, HW: tl.constexpr, HOW: tl.constexpr,
    FMAX: tl.constexpr, HAS_UB: tl.constexpr, POW2: tl.constexpr,
    ALIGNED: tl.constexpr, STORE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Quantize ROWS rows.

    Args:
        x: Values [m, N]; columns ``column_stride`` elements apart, 1 when ALIGNED.
        data: One byte an element, [padded_m, PADDED_N], contiguous.
        scales: fp32 [padded_m].
        m: Rows of x.
        padded_m: Rows of data.
        row_stride: Elements between rows of x.
        column_stride: Elements between columns of x.
        eps: Floor of a row's amax.
        scale_ub: Ceiling of a row's amax, read when HAS_UB.
        N: Columns of x.
        PADDED_N: Columns of data.
        ROWS: Rows of a program, a power of two.
        BLOCK: Columns at a time, a power of two; from PADDED_N on a row is held.
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
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    data = data.to(tl.pointer_type(tl.uint8), bitcast=True)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    source = x + (row.to(tl.int64) * row_stride)[:, None]
    target = data + (row.to(tl.int64) * PADDED_N)[:, None]
    exists = (row < m)[:, None]
    is_stored = (row < padded_m)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    if BLOCK >= PADDED_N:
        value = _load(source, column, column_stride, exists, N, BLOCK, ALIGNED)
        amax = tl.max(magnitude_bits(value), axis=1)
        scale = scale_of(amax, eps, scale_ub, FMAX, HAS_UB, POW2)
        inverse = inverse_of(scale, HOW)
        code = to_code(quotient(value, scale[:, None], inverse[:, None], HOW), FORMAT, HW)
        _store(target, code, column, is_stored, N, PADDED_N, BLOCK, STORE)
    else:
        # where the last block of each walk ends
        N_END: tl.constexpr = (N + BLOCK - 1) // BLOCK * BLOCK
        END: tl.constexpr = (PADDED_N + BLOCK - 1) // BLOCK * BLOCK
        most = tl.zeros((ROWS, BLOCK), tl.int32)
        for start in range(0, N, BLOCK):
            value = _load(source, column + start, column_stride, exists, N, N_END, ALIGNED)
            most = tl.maximum(most, magnitude_bits(value))
        scale = scale_of(tl.max(most, axis=1), eps, scale_ub, FMAX, HAS_UB, POW2)
        inverse = inverse_of(scale, HOW)
        for start in range(0, PADDED_N, BLOCK):
            value = _load(source, column + start, column_stride, exists, N, END, ALIGNED)
            code = to_code(quotient(value, scale[:, None], inverse[:, None], HOW), FORMAT, HW)
            _store(target, code, column + start, is_stored, N, PADDED_N, BLOCK, STORE)
    tl.store(scales + row, tl.where(row < m, scale, 0.0), row < padded_m)


@triton.jit
def _load(
    source, column, column_stride, exists, N: tl.constexpr, END: tl.constexpr,
    ALIGNED: tl.constexpr,
):  # fmt: skip
    """Give the values of a block as fp32, 0 outside of the matrix; no block reaches over END."""
    if END > N:
        exists = exists & (column < N)
    place = source + (column if ALIGNED else column.to(tl.int64) * column_stride)
    if ALIGNED:
        # said of every address: what is said of an argument does not reach the compiler
        place = tl.multiple_of(place, (16, 16))
    return widen(tl.load(place, exists, other=0.0))


@triton.jit
def _store(
    target, code, column, is_stored, N: tl.constexpr, PADDED_N: tl.constexpr, BLOCK: tl.constexpr,
    STORE: tl.constexpr,
):  # fmt: skip
    """Store the codes of a block, 0 in padded columns, whatever their scale is."""
    if N != PADDED_N:
        code = tl.where(column < N, code, 0)
    if PADDED_N % BLOCK != 0:
        is_stored = is_stored & (column < PADDED_N)
    tl.store(tl.multiple_of(target + column, (STORE, STORE)), code, is_stored)
