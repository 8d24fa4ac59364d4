"""The output of a linear: memory of its own, or a caller's, as FlashInfer's functions write it.

Most of them take no notice of the strides of their output: they write M rows of ``padded_n``
elements, one behind the other, from its first element on. So an ``out`` is held to exactly that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.errors import DtypeError, InputError, LayoutError, ShapeError

if TYPE_CHECKING:
    import torch

_ALIGNMENT: Final = 16
"""Bytes: what stores by TMA or in vectors want of the first element."""

_MAKE_ONE: Final = "allocate it with quantmux.ops.linear.spec.empty_output, row_multiple={}"


def require_output(
    out: torch.Tensor, m: int, n: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Check that y [m, n] may be written into ``out``, wherever its elements lie.

    Raises:
        ShapeError: Another shape.
        DtypeError: Another dtype.
        InputError: Another device.
    """
    if tuple(out.shape) != (m, n):
        raise ShapeError(
            "out has the wrong shape", facts={"need": [m, n], "found": list(out.shape)}
        )
    if out.dtype != dtype:
        raise DtypeError(f"out needs {dtype}, found {out.dtype}")
    if out.device != device:
        raise InputError(f"out is on {out.device}, x on {device}", code="device")


def whole_rows(
    out: torch.Tensor,
    m: int,
    n: int,
    padded_n: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    alignment: int = _ALIGNMENT,
) -> torch.Tensor:
    """Give the memory of ``out`` [m, n] with the gap of its rows: [m, padded_n], contiguous.

    What lies in the gap is overwritten: it belongs to nobody (`empty_output`).

    Args:
        out: Where a caller wants y.
        m: Rows.
        n: Logical columns.
        padded_n: Columns that the library writes.
        dtype: Of y.
        device: Of x.
        alignment: Bytes at a multiple of which it must begin.

    Raises:
        ShapeError: Another shape.
        DtypeError: Another dtype.
        InputError: Another device.
        LayoutError: Rows do not lie ``padded_n`` apart, the storage ends before the last gap, or
            ``out`` does not begin at a multiple of ``alignment`` bytes.
    """
    if (
        out.is_contiguous()
        and out.shape == (m, n)
        and padded_n == n
        and out.dtype is dtype
        and out.device == device
        and out.data_ptr() % alignment == 0
    ):
        return out  # the usual one, in half the time
    require_output(out, m, n, dtype, device)
    if m == 0:
        return out
    row = padded_n if m == 1 else out.stride(0)
    if row != padded_n or (n > 1 and out.stride(1) != 1):
        raise LayoutError(
            "out has the wrong strides",
            facts={"need": [padded_n, 1], "found": list(out.stride())},
            hint=_MAKE_ONE.format(_multiple(n, padded_n)),
        )
    if out.data_ptr() % alignment:
        raise LayoutError(
            f"out needs to begin at a multiple of {alignment} bytes",
            facts={"found": f"{out.data_ptr() % alignment} bytes after one"},
            hint=_MAKE_ONE.format(_multiple(n, padded_n)),
        )
    if padded_n == n:
        return out
    held = out.untyped_storage().nbytes() // out.element_size() - out.storage_offset()
    if held < m * padded_n:
        raise LayoutError(
            "the storage of out ends before the gap of its last row",
            facts={"need": f"{m * padded_n} elements", "found": f"{held} elements"},
            hint=_MAKE_ONE.format(_multiple(n, padded_n)),
        )
    return out.as_strided((m, padded_n), (padded_n, 1))


def _multiple(n: int, padded_n: int) -> int:
    """Give a row multiple that makes rows of n lie ``padded_n`` apart: the least power of two."""
    multiple = 1
    while -(-n // multiple) * multiple < padded_n:
        multiple *= 2
    return multiple
