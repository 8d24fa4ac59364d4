"""The output of a GEMM that ignores strides: whole rows, the padding of N included.

FlashInfer's FP4 GEMMs write y [M, padded N] as one piece, whatever the strides of what they are
given. So y is a part of such a piece, and an ``out`` that is none is refused before the call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.config.layouts import round_up
from quantmux.errors import DtypeError, InputError, LayoutError, ShapeError

if TYPE_CHECKING:
    import torch

ALIGNMENT: Final = 32
"""Bytes at whose multiples y begins: CUTLASS stores 32 at a time on sm100."""


def whole_rows(
    out: torch.Tensor, m: int, n: int, multiple: int, dtype: torch.dtype, home: torch.device
) -> torch.Tensor:
    """Give the memory of an output [m, n] with the gaps of its rows, contiguous.

    Args:
        out: What a caller handed over.
        m: Rows that it must have.
        n: Columns that it must have.
        multiple: Rows lie n rounded up to it apart: ``output_row_multiple`` of the kernel.
        dtype: That it must have.
        home: Where it must be.

    Returns:
        [m, n rounded up]; ``out`` itself where there are no gaps, or no rows.

    Raises:
        ShapeError: ``out`` has another shape.
        DtypeError: Another dtype.
        InputError: It is on another device.
        LayoutError: Rows lie otherwise, the storage ends before the last gap, or it begins at no
            multiple of 32 bytes.
    """
    padded_n = round_up(n, multiple)
    if out.shape != (m, n):
        raise ShapeError(
            "out has the wrong shape", facts={"need": [m, n], "found": list(out.shape)}
        )
    if out.dtype is not dtype:
        raise DtypeError(f"out needs {dtype}, found {out.dtype}")
    if out.device != home:
        raise InputError(f"out is on {out.device}, the weights are on {home}", code="device")
    if m == 0:
        return out
    if out.stride() != (padded_n, 1) and not (m == 1 and out.stride(1) == 1):
        raise _layout("strides of out", [padded_n, 1], list(out.stride()), multiple)
    if out.data_ptr() % ALIGNMENT:
        found = f"{out.data_ptr() % ALIGNMENT} bytes after one"
        raise _layout("where out begins", f"a multiple of {ALIGNMENT} bytes", found, multiple)
    if padded_n == n:
        return out if m > 1 else out.as_strided((m, n), (n, 1))
    held = out.untyped_storage().nbytes() // out.element_size() - out.storage_offset()
    if held < m * padded_n:
        raise _layout("elements of out's storage", m * padded_n, held, multiple)
    return out.as_strided((m, padded_n), (padded_n, 1))


def _layout(what: str, need: object, found: object, multiple: int) -> LayoutError:
    return LayoutError(
        f"the GEMM cannot write into out: {what}",
        facts={"need": need, "found": found},
        hint=f"allocate it with quantmux.ops.linear.spec.empty_output, row_multiple={multiple}",
    )
