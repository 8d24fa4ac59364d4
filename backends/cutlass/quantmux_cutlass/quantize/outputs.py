"""Outputs of the NVFP4 quantizer: allocated by numbers computed once for an M, or checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from quantmux.config.layouts import data_shape, scale_shape
from quantmux.ops.checks import check_out
from quantmux.ops.quantized import QuantizedTensor

if TYPE_CHECKING:
    from quantmux.config import Layout, Operand

_ONE: Final = (1,)
_KEPT: Final = 1024
"""Row counts whose extents are kept."""


class Extents(NamedTuple):
    """What an output for one number of rows looks like.

    Attributes:
        data: Shape of the codes, in bytes.
        scales: Shape of the scales.
        logical: The logical shape.
        data_strides: Strides of the codes.
        scale_strides: Strides of the scales.
    """

    data: tuple[int, ...]
    scales: tuple[int, ...]
    logical: tuple[int, int]
    data_strides: tuple[int, ...]
    scale_strides: tuple[int, ...]


class Outputs:
    """Makes and checks the outputs of one config.

    Args:
        operand: NVFP4.
        layout: How it lies.
        n: Row width of the result.
    """

    def __init__(self, operand: Operand, layout: Layout, n: int) -> None:
        self._operand = operand
        self._layout = layout
        self._n = n
        self._extents: dict[int, Extents] = {}

    def new(self, m: int, home: torch.device) -> QuantizedTensor:
        """Allocate an output for m rows; nothing of it is written."""
        e = self._extents.get(m) or self._measure(m)
        return QuantizedTensor(
            # with strides: `torch.empty` takes half a microsecond longer
            torch.empty_strided(e.data, e.data_strides, dtype=torch.uint8, device=home),
            torch.empty_strided(e.scales, e.scale_strides, dtype=torch.float8_e4m3fn, device=home),
            torch.empty_strided(_ONE, _ONE, dtype=torch.float32, device=home),
            self._operand,
            self._layout,
            e.logical,
        )

    def checked(self, out: QuantizedTensor, m: int, home: torch.device) -> QuantizedTensor:
        """Give ``out`` when it can be written into.

        Raises:
            LayoutError, ShapeError, DtypeError, InputError: It cannot; says why.
        """
        if not self._is_plainly_right(out, m, home):
            check_out(out, self._operand, self._layout, (m, self._n), home)
        return out

    def _is_plainly_right(self, out: QuantizedTensor, m: int, home: torch.device) -> bool:
        """Tell whether an output is as `new` makes it; the others are looked at one by one."""
        e = self._extents.get(m) or self._measure(m)
        data, scales, g = out.data, out.scales, out.global_scale
        return (
            g is not None
            and out.layout is self._layout
            and out.operand is self._operand
            and out.logical_shape == e.logical
            and data.dtype is torch.uint8
            and data.shape == e.data
            and data.is_contiguous()
            and data.device == home
            and scales.dtype is torch.float8_e4m3fn
            and scales.shape == e.scales
            and scales.is_contiguous()
            and scales.device == home
            and g.dtype is torch.float32
            and g.shape == (1,)
            and g.device == home
        )

    def _measure(self, m: int) -> Extents:
        if len(self._extents) >= _KEPT:
            self._extents = {}  # a new one: another thread may be reading
        data = data_shape(self._operand, self._layout, m)
        scales = scale_shape(self._operand, self._layout, m)
        found = self._extents[m] = Extents(
            data=data,
            scales=scales,
            logical=(m, self._n),
            data_strides=(data[1], 1),
            scale_strides=(scales[1], 1),
        )
        return found
