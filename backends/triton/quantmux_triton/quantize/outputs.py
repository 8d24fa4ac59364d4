"""Outputs of producers: allocated with numbers that were computed at bind, or checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux.config.layouts import round_up
from quantmux.errors import InputError
from quantmux.ops.checks import check_out
from quantmux.ops.quantized import DATA_DTYPES, QuantizedTensor

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import Layout, Operand


class Outputs:
    """Makes the outputs of one producer config; fp8 and int8 operands.

    What `quantmux.ops.quantized.empty_quantized` computes from models at every call is computed
    once.

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
        self.padded_n = layout.padded_n
        self.groups = operand.block.grid(1, layout.padded_n)[1]
        self.multiple = layout.padded_m_multiple
        self.column = {"col_major": 1, "col_major_aligned4": 4, "packed_pow2": 4}.get(
            layout.scales, 0
        )
        is_packed = layout.scales == "packed_pow2"
        self._columns = -(-self.groups // 4) if is_packed else self.groups
        self._scale_dtype = torch.int32 if is_packed else torch.float32
        self._is_scalar = layout.scales == "scalar"

    def rows(self, m: int) -> tuple[int, int]:
        """Give the stored rows, and the rows that a column of scales has (0 if row by row)."""
        padded_m = round_up(m, self.multiple)
        return padded_m, round_up(padded_m, self.column) if self.column else 0

    def new(self, m: int, device: torch.device) -> QuantizedTensor:
        """Allocate an output for m rows; nothing of it is written."""
        padded_m, column = self.rows(m)
        columns = self._columns
        data = torch.empty((padded_m, self.padded_n), dtype=self._dtype, device=device)
        if self._is_scalar:
            shape: tuple[int, ...] = (1,)
        else:
            shape = (columns, column) if self.column else (padded_m, columns)
        scales = torch.empty(shape, dtype=self._scale_dtype, device=device)
        if self.column:
            scales = scales.as_strided((padded_m, columns), (1, max(column, 1)))
        return QuantizedTensor(data, scales, None, self._operand, self._layout, (m, self._n))

    def take(self, out: QuantizedTensor | None, m: int, device: torch.device) -> QuantizedTensor:
        """Give ``out`` when it can be written into, a new output when it is None.

        Raises:
            LayoutError, ShapeError, DtypeError, InputError: ``out`` is another one.
        """
        if out is None:
            return self.new(m, device)
        check_out(out, self._operand, self._layout, (m, self._n), device)
        return out


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
