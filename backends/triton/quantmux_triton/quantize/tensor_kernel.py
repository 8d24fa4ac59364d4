"""Quantizing a matrix with one scale: fp8 or int8 codes.

With a scale that is given, one launch of `tensor_kernel` makes the codes. Without one,
`tensor_amax_kernel` goes before: every program walks over tiles of the matrix and stores the
largest magnitude it met, as bits, in a place of its own. `tensor_kernel` reads all those places (a
few KiB, from the cache) and takes their maximum. An integer maximum is the same in any order, so
the result is deterministic without atomics and without memory that has to be reset.

`tensor_kernel` takes the tiles from the last to the first: what the first launch read last is what
the cache still has.
"""

import triton
import triton.language as tl

from quantmux_triton.numerics_kernel import (
    DIVIDE,
    inverse_of,
    magnitude_bits,
    quotient,
    scale_of,
    to_code,
    widen,
)

_LEAST = tl.constexpr(2.0**-80)
_MOST = tl.constexpr(2.0**120)
_UP = tl.constexpr(2.0**80)
_DOWN = tl.constexpr(2.0**-60)

_POINTERS = ("x", "data", "scales", "source")
_AMAX_INTEGERS = ("m", "row_stride", "column_stride")
_INTEGERS = ("m", "padded_m", "row_stride", "column_stride", "parts")


@triton.jit(do_not_specialize=_AMAX_INTEGERS, do_not_specialize_on_alignment=("x", "partial"))
def tensor_amax_kernel(
    x, partial, m, row_stride, column_stride,
    N: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    ALIGNED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Store the bits of the largest magnitude of every program's tiles, int32 [programs].

    Args:
        x: Values [m, N]; columns ``column_stride`` elements apart, 1 when ALIGNED.
        partial: int32 [programs].
        m: Rows of x.
        row_stride: Elements between rows of x.
        column_stride: Elements between columns of x.
        N: Columns of x.
        ROWS: Rows of a tile, a power of two.
        BLOCK: Columns of a tile, a power of two.
        ALIGNED: Rows of x begin at multiples of 16 bytes and have no gaps between columns.
        PDL: Whether the launch depends on the one before programmatically.
    """
    ACROSS: tl.constexpr = (N + BLOCK - 1) // BLOCK
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    program = tl.program_id(0)
    most = tl.zeros((ROWS, BLOCK), tl.int32)
    tile = program
    # not a range: the interpreter of Triton 3.6 cannot count with values of the device
    while tile < tl.cdiv(m, ROWS) * ACROSS:
        row = tile // ACROSS * ROWS + tl.arange(0, ROWS)
        column = tile % ACROSS * BLOCK + tl.arange(0, BLOCK)
        value = _load(x, row, column, m, row_stride, column_stride, N, ACROSS * BLOCK, ALIGNED)
        most = tl.maximum(most, magnitude_bits(value))
        tile += tl.num_programs(0)
    tl.store(partial + program, tl.max(tl.max(most, axis=1), axis=0))


@triton.jit(do_not_specialize=_INTEGERS, do_not_specialize_on_alignment=_POINTERS)
def tensor_kernel(
    x, data, scales, source,
    m, padded_m, row_stride, column_stride, parts, eps, scale_ub,
    N: tl.constexpr, PADDED_N: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    PARTS: tl.constexpr, FORMAT: tl.constexpr, HW: tl.constexpr, HOW: tl.constexpr,
    FMAX: tl.constexpr, HAS_UB: tl.constexpr, POW2: tl.constexpr,
    PAD_ROWS: tl.constexpr, ALIGNED: tl.constexpr, STORE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Quantize one tile; the first program stores the scale.

    Args:
        x: Values [m, N]; columns ``column_stride`` elements apart, 1 when ALIGNED.
        data: One byte an element, [padded_m, PADDED_N], contiguous.
        scales: fp32 [1], written.
        source: What the scale comes from: int32 [parts] of `tensor_amax_kernel`, or the given
            scale, fp32 [1], when PARTS is 0.
        m: Rows of x.
        padded_m: Rows of data.
        row_stride: Elements between rows of x.
        column_stride: Elements between columns of x.
        parts: Numbers in ``source``, at most PARTS.
        eps: Floor of amax.
        scale_ub: Ceiling of amax, read when HAS_UB.
        N: Columns of x.
        PADDED_N: Columns of data.
        ROWS: Rows of a tile, a power of two.
        BLOCK: Columns of a tile, a power of two.
        PARTS: A power of two, or 0 for a given scale.
        FORMAT: What a code is.
        HW: Whether the instruction makes fp8.
        HOW: How values are divided by the scale.
        FMAX: Largest magnitude of a code.
        HAS_UB: Whether amax has a ceiling.
        POW2: Whether the scale is a power of two.
        PAD_ROWS: Whether data may have more rows than x.
        ALIGNED: Rows of x begin at multiples of 16 bytes and have no gaps between columns.
        STORE: Bytes that a store may take at once: a divisor of PADDED_N and of data's address.
        PDL: Whether the launch depends on the one before programmatically.
    """
    ACROSS: tl.constexpr = (PADDED_N + BLOCK - 1) // BLOCK
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    data = data.to(tl.pointer_type(tl.uint8), bitcast=True)
    program = tl.program_id(0)
    tile = tl.num_programs(0) - 1 - program
    row = tile // ACROSS * ROWS + tl.arange(0, ROWS)
    column = tile % ACROSS * BLOCK + tl.arange(0, BLOCK)
    value = _load(x, row, column, m, row_stride, column_stride, N, ACROSS * BLOCK, ALIGNED)
    if PARTS == 0:
        scale = tl.load(source)
        code = to_code(_given_quotient(value, scale, HOW), FORMAT, HW)
    else:
        part = tl.arange(0, PARTS)
        amax = tl.max(tl.load(source + part, part < parts, other=0), axis=0)
        # of one element, as there are no tensors of none
        block = scale_of(amax + tl.zeros((1,), tl.int32), eps, scale_ub, FMAX, HAS_UB, POW2)
        inverse = inverse_of(block, HOW)
        code = to_code(quotient(value, block[:, None], inverse[:, None], HOW), FORMAT, HW)
        scale = tl.sum(block, axis=0)
    if N != PADDED_N:
        # the scale may be NaN, and the padding is 0 all the same
        code = tl.where((column < N)[None, :], code, 0)
    if PAD_ROWS:
        code = tl.where((row < m)[:, None], code, 0)
    target = data + (row.to(tl.int64) * PADDED_N)[:, None] + column[None, :]
    is_stored = (row < padded_m)[:, None]
    if PADDED_N % BLOCK != 0:
        is_stored = is_stored & (column < PADDED_N)[None, :]
    tl.store(tl.multiple_of(target, (STORE, STORE)), code, is_stored)
    tl.store(scales, scale, program == 0)


@triton.jit
def _given_quotient(value, scale, HOW: tl.constexpr):
    """Give quotients by a scale that nobody chose for us, of values that it may not bound.

    Where the scale is outside of what the corrected forms allow, both are moved by the same power
    of two. A value that overflows by it has a quotient that saturates, one that loses bits has a
    quotient of code 0.
    """
    if HOW == DIVIDE:
        q = tl.div_rn(value, scale + tl.zeros_like(value))
    else:
        lift = tl.where(scale < _LEAST, _UP, tl.where(scale > _MOST, _DOWN, 1.0))
        divisor = scale * lift + tl.zeros((1, 1), tl.float32)
        q = quotient(value * lift, divisor, inverse_of(divisor, HOW), HOW)
    return q


@triton.jit
def _load(
    x, row, column, m, row_stride, column_stride, N: tl.constexpr, END: tl.constexpr,
    ALIGNED: tl.constexpr,
):  # fmt: skip
    """Give the values of a tile as fp32, 0 outside of the matrix; no tile reaches over END."""
    place = column if ALIGNED else column.to(tl.int64) * column_stride
    inside = (row < m)[:, None]
    if END > N:
        inside = inside & (column < N)[None, :]
    source = x + (row.to(tl.int64) * row_stride)[:, None] + place[None, :]
    if ALIGNED:
        # said of every address: what is said of an argument does not reach the compiler
        source = tl.multiple_of(source, (16, 16))
    return widen(tl.load(source, inside, other=0.0))
