"""Outputs of producers: allocated with numbers that were computed before, or checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from quantmux.config.layouts import data_shape, round_up, scale_shape, scale_strides
from quantmux.errors import InputError
from quantmux.ops.checks import check_out
from quantmux.ops.quantized import DATA_DTYPES, QuantizedTensor

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import Layout, Operand

_KEPT: Final = 1024
"""Row counts whose extents are kept."""

_COLUMN: Final = {"col_major": 1, "col_major_aligned4": 4, "packed_pow2": 4}


class Extents(NamedTuple):
    """The sizes of an output for one number of rows.

    Attributes:
        padded_m: Stored rows.
        column: Rows that a column of scales has; 0 where scales lie row by row.
        data: Shape of the data.
        scales: Shape of the scales.
        strides: Strides of the scales.
        storage: Shape of the storage behind the scales; None where it is theirs.
        logical: The logical shape.
    """

    padded_m: int
    column: int
    data: tuple[int, int]
    scales: tuple[int, ...]
    strides: tuple[int, ...]
    storage: tuple[int, int] | None
    logical: tuple[int, int]


class Outputs:
    """Makes the outputs of one producer config; fp8 and int8 operands.

    What `quantmux.ops.quantized.empty_quantized` and `quantmux.ops.checks.check_out` compute from
    models at every call is computed once for a number of rows.

    Args:
        operand: What the numbers mean.
        layout: How they lie.
        n: Row width of the result.

    Attributes:
        padded_n: Stored row width.
        groups: Scales of a stored row, 1 where a row or the matrix has one.
        multiple: Stored rows are the rows rounded up to it.
        column: Rows of a column of scales are the stored rows rounded up to it; 0 where scales lie
            row by row.
    """

    def __init__(self, operand: Operand, layout: Layout, n: int) -> None:
        self._operand = operand
        self._layout = layout
        self._n = n
        self._dtype = DATA_DTYPES[operand.element]
        self._scale_dtype = torch.int32 if layout.scales == "packed_pow2" else torch.float32
        self._extents: dict[int, Extents] = {}
        self.padded_n = layout.padded_n
        self.groups = operand.block.grid(1, layout.padded_n)[1]
        self.multiple = layout.padded_m_multiple
        self.column = _COLUMN.get(layout.scales, 0)

    def extents(self, m: int) -> Extents:
        """Give the sizes for m rows."""
        found = self._extents.get(m)
        if found is None:
            if len(self._extents) >= _KEPT:
                self._extents = {}  # a new one: another thread may be reading
            found = self._extents[m] = self._measure(m)
        return found

    def rows(self, m: int) -> tuple[int, int]:
        """Give the stored rows, and the rows that a column of scales has (0 if row by row)."""
        found = self.extents(m)
        return found.padded_m, found.column

    def new(self, m: int, device: torch.device) -> QuantizedTensor:
        """Allocate an output for m rows; nothing of it is written."""
        e = self.extents(m)
        data = torch.empty(e.data, dtype=self._dtype, device=device)
        if e.storage is None:
            scales = torch.empty_strided(
                e.scales, e.strides, dtype=self._scale_dtype, device=device
            )
        else:
            whole = torch.empty(e.storage, dtype=self._scale_dtype, device=device)
            scales = whole.as_strided(e.scales, e.strides)
        return QuantizedTensor(data, scales, None, self._operand, self._layout, e.logical)

    def take(self, out: QuantizedTensor | None, m: int, device: torch.device) -> QuantizedTensor:
        """Give ``out`` when it can be written into, a new output when it is None.

        Raises:
            LayoutError, ShapeError, DtypeError, InputError: ``out`` is another one.
        """
        if out is None:
            return self.new(m, device)
        if not self._is_plainly_right(out, m, device):
            check_out(out, self._operand, self._layout, (m, self._n), device)
        return out

    def _is_plainly_right(self, out: QuantizedTensor, m: int, device: torch.device) -> bool:
        """Tell whether an output is as `new` makes it; the others are looked at one by one."""
        e = self.extents(m)
        data, scales = out.data, out.scales
        return (
            out.layout is self._layout
            and out.operand is self._operand
            and out.logical_shape == e.logical
            and data.dtype is self._dtype
            and data.shape == e.data
            and data.is_contiguous()
            and data.device == device
            and scales.dtype is self._scale_dtype
            and scales.shape == e.scales
            and scales.stride() == e.strides
            and scales.device == device
            and out.global_scale is None
            and (e.storage is None or _holds(scales, e.storage))
        )

    def _measure(self, m: int) -> Extents:
        operand, layout = self._operand, self._layout
        padded_m = layout.padded_m(m)
        column = round_up(padded_m, self.column) if self.column else 0
        scales = tuple(scale_shape(operand, layout, m))
        return Extents(
            padded_m=padded_m,
            column=column,
            data=data_shape(operand, layout, m),
            scales=scales,
            strides=tuple(scale_strides(operand, layout, m)),
            storage=(scales[1], column) if column > padded_m else None,
            logical=(m, self._n),
        )


def _holds(scales: torch.Tensor, storage: tuple[int, int]) -> bool:
    """Tell whether pad rows, which shape and strides do not tell of, are there to be written."""
    held = scales.untyped_storage().nbytes() // scales.element_size() - scales.storage_offset()
    return held >= storage[0] * storage[1]


def require_on(x: torch.Tensor, device: DeviceProfile) -> None:
    """Check that x is on the kind of device that a kernel was bound for.

    Raises:
        InputError: It is elsewhere.
    """
    want = "cuda" if device.is_cuda else "cpu"
    if x.device.type != want:
        raise InputError(
            f"x is on {x.device}, the kernel was bound for {want}",
            hint="move x, or select for the device where x is",
            code="device",
        )
