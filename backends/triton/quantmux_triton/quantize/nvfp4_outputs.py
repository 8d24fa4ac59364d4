"""Outputs of kernels that make NVFP4: allocated by numbers computed once, or checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from quantmux.config.layouts import data_shape, scale_shape
from quantmux.ops.checks import check_out
from quantmux.ops.quantized import QuantizedTensor

if TYPE_CHECKING:
    from quantmux.config import Layout, Operand

_KEPT: Final = 1024
"""Row counts whose extents are kept."""


class Extents(NamedTuple):
    """The sizes of an output for one number of rows.

    Attributes:
        padded_m: Stored rows of data.
        scale_rows: Stored rows of scales.
        data: Shape of the data, in bytes.
        scales: Shape of the scales.
        logical: The logical shape.
    """

    padded_m: int
    scale_rows: int
    data: tuple[int, ...]
    scales: tuple[int, ...]
    logical: tuple[int, int]


class Outputs:
    """Makes the outputs of one config.

    Args:
        operand: NVFP4.
        layout: How it lies.
        n: Row width of the result.

    Attributes:
        groups: Blocks of a stored row.
    """

    def __init__(self, operand: Operand, layout: Layout, n: int) -> None:
        self._operand = operand
        self._layout = layout
        self._n = n
        self._extents: dict[int, Extents] = {}
        self.groups = layout.padded_n // 16

    def extents(self, m: int) -> Extents:
        """Give the sizes for m rows."""
        found = self._extents.get(m)
        if found is None:
            if len(self._extents) >= _KEPT:
                self._extents = {}  # a new one: another thread may be reading
            scales = scale_shape(self._operand, self._layout, m)
            found = self._extents[m] = Extents(
                padded_m=self._layout.padded_m(m),
                scale_rows=scales[0],
                data=data_shape(self._operand, self._layout, m),
                scales=scales,
                logical=(m, self._n),
            )
        return found

    def take(
        self, out: QuantizedTensor | None, m: int, device: torch.device
    ) -> tuple[QuantizedTensor, torch.Tensor]:
        """Give ``out`` when it can be written into, a new output when it is None; and its g.

        Raises:
            LayoutError, ShapeError, DtypeError, InputError: ``out`` is another one.
        """
        if out is not None:
            g = out.global_scale
            if g is None or not self._is_plainly_right(out, g, m, device):
                check_out(out, self._operand, self._layout, (m, self._n), device)
            if g is not None:
                return out, g
        e = self.extents(m)
        data = torch.empty(e.data, dtype=torch.uint8, device=device)
        scales = torch.empty(e.scales, dtype=torch.float8_e4m3fn, device=device)
        g = torch.empty(1, dtype=torch.float32, device=device)
        made = QuantizedTensor(data, scales, g, self._operand, self._layout, e.logical)
        return made, g

    def _is_plainly_right(
        self, out: QuantizedTensor, g: torch.Tensor, m: int, device: torch.device
    ) -> bool:
        """Tell whether an output is as `take` makes it; the others are looked at one by one."""
        e = self.extents(m)
        data, scales = out.data, out.scales
        return (
            out.layout is self._layout
            and out.operand is self._operand
            and out.logical_shape == e.logical
            and data.dtype is torch.uint8
            and data.shape == e.data
            and data.is_contiguous()
            and data.device == device
            and scales.dtype is torch.float8_e4m3fn
            and scales.shape == e.scales
            and scales.is_contiguous()
            and scales.device == device
            and g.dtype is torch.float32
            and g.shape == (1,)
            and g.device == device
        )
