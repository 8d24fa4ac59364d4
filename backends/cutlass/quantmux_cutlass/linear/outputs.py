"""The output of a linear: one of its own, or one that a caller hands over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.config.layouts import round_up
from quantmux.errors import DtypeError, InputError, LayoutError, ShapeError

if TYPE_CHECKING:
    import torch

_ALIGNMENT: Final = 16
_MAKE_ONE: Final = "allocate it with quantmux.ops.linear.spec.empty_output, row_multiple={}"


def checked_output(
    out: torch.Tensor,
    m: int,
    n: int,
    dtype: torch.dtype,
    device: torch.device,
    row_multiple: int,
) -> int:
    """Give the elements between rows of ``out`` if y [m, n] can be stored there.

    A kernel with ``row_multiple`` = 1 stores elements and touches nothing else. One with 8 stores
    by TMA: rows of y begin at multiples of 16 bytes, and with N % 8 != 0 what lies between N and
    R8(N) is overwritten, so rows must lie exactly that far apart and the last have its gap too.

    Raises:
        ShapeError: Another shape.
        DtypeError: Another dtype.
        InputError: Another device.
        LayoutError: Elements of a row lie apart, rows overlap, or a rule of TMA is broken.
    """
    if tuple(out.shape) != (m, n):
        raise ShapeError(
            "out has the wrong shape", facts={"need": [m, n], "found": list(out.shape)}
        )
    if out.dtype != dtype:
        raise DtypeError(f"out needs {dtype}, found {out.dtype}")
    if out.device != device:
        raise InputError(f"out is on {out.device}, x on {device}", code="device")
    if m == 0:
        return round_up(n, row_multiple)
    if n > 1 and out.stride(1) != 1:
        raise _strides(out, f"[{n} or more, 1]", row_multiple)
    if row_multiple == 1:
        return _row_of_elements(out, m, n)
    return _row_for_tma(out, m, n, row_multiple)


def _row_of_elements(out: torch.Tensor, m: int, n: int) -> int:
    if m > 1 and out.stride(0) < n:
        raise _strides(out, f"[{n} or more, 1]", 1)
    return out.stride(0) if m > 1 else n


def _row_for_tma(out: torch.Tensor, m: int, n: int, row_multiple: int) -> int:
    padded = round_up(n, row_multiple)
    row = padded if m == 1 and padded == n else out.stride(0)
    if padded == n and (row < n or row % row_multiple):
        raise _strides(out, f"[a multiple of {row_multiple} from {n} on, 1]", row_multiple)
    if padded not in (n, row):
        raise _strides(out, f"[{padded}, 1]", row_multiple)
    if out.data_ptr() % _ALIGNMENT:
        raise LayoutError(
            "out needs to begin at a multiple of 16 bytes",
            facts={"found": f"{out.data_ptr() % _ALIGNMENT} bytes after one"},
            hint=_MAKE_ONE.format(row_multiple),
        )
    if padded != n:
        held = out.untyped_storage().nbytes() // out.element_size() - out.storage_offset()
        if held < m * padded:
            raise LayoutError(
                "the storage of out ends before the gap of its last row",
                facts={"need": f"{m * padded} elements", "found": f"{held} elements"},
                hint=_MAKE_ONE.format(row_multiple),
            )
    return row


def _strides(out: torch.Tensor, need: str, row_multiple: int) -> LayoutError:
    return LayoutError(
        "out has the wrong strides",
        facts={"need": need, "found": list(out.stride())},
        hint=_MAKE_ONE.format(row_multiple),
    )
