"""The output a caller hands to a linear: checked, and written into."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux.errors import DtypeError, InputError, LayoutError, ShapeError

if TYPE_CHECKING:
    import torch


def require_output(
    out: torch.Tensor, m: int, n: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Check that y [m, n] can be written into ``out``.

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


def with_padded_rows(out: torch.Tensor, padded_n: int) -> torch.Tensor:
    """Give the storage of ``out`` [m, n] with the gap of its rows, [m, padded_n], contiguous.

    A GEMM on padded weights writes the gap too.

    Raises:
        LayoutError: Rows do not lie ``padded_n`` apart, or the storage ends before the last gap.
    """
    m = out.shape[0]
    if out.stride() != (padded_n, 1) and not (m == 1 and out.stride(1) == 1):
        raise LayoutError(
            "out has the wrong strides",
            facts={"need": [padded_n, 1], "found": list(out.stride())},
            hint="allocate it with quantmux.ops.linear.spec.empty_output, row_multiple=16",
        )
    held = out.untyped_storage().nbytes() // out.element_size() - out.storage_offset()
    if held < m * padded_n:
        raise LayoutError(
            "the storage of out ends before the gap of its last row",
            facts={"need": f"{m * padded_n} elements", "found": f"{held} elements"},
            hint="allocate it with quantmux.ops.linear.spec.empty_output, row_multiple=16",
        )
    return out.as_strided((m, padded_n), (padded_n, 1))
