"""A caller's output looked at quickly, and outputs of NVFP4 allocated from extents kept for each M.

`quantmux.ops.checks.check_out` asks everything, in some 8 µs. What was made for the very config is
told apart by a few comparisons; only the others are asked.
"""

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


def require_scaled_out(
    out: QuantizedTensor,
    operand: Operand,
    layout: Layout,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    home: torch.device,
    scale: torch.Tensor | None,
) -> None:
    """Check that codes of a shape with one scale fp32 [1] can be written into ``out``.

    Of an ``out`` that holds the very scale that is given, only the codes are looked at. Without one
    (None) its scale is looked at.

    Raises:
        LayoutError, ShapeError, DtypeError, InputError: They cannot; says why.
    """
    data, scales = out.data, out.scales
    if not (
        out.layout is layout
        and out.operand is operand
        and out.logical_shape == shape
        and data.dtype is dtype
        and data.shape == shape
        and data.is_contiguous()
        and data.device == home
        and (
            scales is scale
            or (
                out.global_scale is None
                and scales.dtype is torch.float32
                and scales.shape == _ONE
                and scales.device == home
            )
        )
    ):
        check_out(out, operand, layout, shape, home)


class Extents(NamedTuple):
    """What an NVFP4 output for one number of rows looks like."""

    data: tuple[int, ...]
    scales: tuple[int, ...]
    logical: tuple[int, int]


class NvFp4Outputs:
    """Makes and checks the NVFP4 outputs of one config.

    Args:
        operand: NVFP4.
        layout: One of core's, without padded rows.
        n: Row width.
    """

    def __init__(self, operand: Operand, layout: Layout, n: int) -> None:
        self._operand, self._layout, self._n = operand, layout, n
        self._extents: dict[int, Extents] = {}

    def new(self, m: int, home: torch.device, g: torch.Tensor | None = None) -> QuantizedTensor:
        """Allocate an output for m rows; nothing of it is written. ``g`` is passed on as it is."""
        e = self._extents.get(m) or self._measure(m)
        empty = torch.empty
        return QuantizedTensor(
            empty(e.data, dtype=torch.uint8, device=home),
            empty(e.scales, dtype=torch.float8_e4m3fn, device=home),
            empty(_ONE, dtype=torch.float32, device=home) if g is None else g,
            self._operand,
            self._layout,
            e.logical,
        )

    def require(self, out: QuantizedTensor, m: int, home: torch.device) -> None:
        """Check that an output for m rows can be written into ``out``.

        Raises:
            LayoutError, ShapeError, DtypeError, InputError: It cannot; says why.
        """
        e = self._extents.get(m) or self._measure(m)
        data, scales, g = out.data, out.scales, out.global_scale
        if not (
            g is not None
            and out.operand is self._operand
            and out.layout is self._layout
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
            and g.shape == _ONE
            and g.device == home
        ):
            check_out(out, self._operand, self._layout, e.logical, home)

    def _measure(self, m: int) -> Extents:
        if len(self._extents) >= _KEPT:
            self._extents = {}  # a new one: another thread may be reading
        found = self._extents[m] = Extents(
            data_shape(self._operand, self._layout, m),
            scale_shape(self._operand, self._layout, m),
            (m, self._n),
        )
        return found
