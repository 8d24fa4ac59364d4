"""The output a caller hands to a linear that stores rows at any distance: checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux.errors import DtypeError, InputError, LayoutError, ShapeError

if TYPE_CHECKING:
    import torch


def checked_output(
    out: torch.Tensor, m: int, n: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Give ``out`` if y [m, n] can be stored there.

    Raises:
        ShapeError: Another shape.
        DtypeError: Another dtype.
        InputError: Another device.
        LayoutError: Elements of a row lie apart, or rows overlap.
    """
    if tuple(out.shape) != (m, n):
        raise ShapeError(
            "out has the wrong shape", facts={"need": [m, n], "found": list(out.shape)}
        )
    if out.dtype != dtype:
        raise DtypeError(f"out needs {dtype}, found {out.dtype}")
    if out.device != device:
        raise InputError(f"out is on {out.device}, x on {device}", code="device")
    if (n > 1 and out.stride(1) != 1) or (m > 1 and out.stride(0) < n):
        raise LayoutError(
            "out has the wrong strides",
            facts={"need": f"[{n} or more, 1]", "found": list(out.stride())},
            hint="allocate it with quantmux.ops.linear.spec.empty_output",
        )
    return out
