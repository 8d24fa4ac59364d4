"""Outputs of inverse_rope_quantize: allocated with numbers that were computed once, or checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from quantmux.ops.checks import check_out
from quantmux.ops.quantized import DATA_DTYPES, QuantizedTensor

if TYPE_CHECKING:
    from quantmux.config import InverseRopeQuantizeConfig

_KEPT: Final = 1024
"""Token counts whose extents are kept."""


class Extents(NamedTuple):
    """The sizes of an output for one number of tokens.

    Attributes:
        shape: Logical shape, and that of the data.
        data_strides: Strides of the data, whose memory is [G, T, n].
        scales: Shape of the scales, or of their words.
        scale_strides: Strides of the scales.
        storage: Elements of the scales' storage, pad rows included.
    """

    shape: tuple[int, int, int]
    data_strides: tuple[int, int, int]
    scales: tuple[int, int, int]
    scale_strides: tuple[int, int, int]
    storage: int


class GroupedOutputs:
    """Makes the outputs of one config: logical [T, G, n] on memory [G, T, n].

    Args:
        config: Heads, groups, operand and layout.
    """

    def __init__(self, config: InverseRopeQuantizeConfig) -> None:
        self._operand = config.operand
        self._layout = config.layout
        self._groups = config.groups
        self._n = config.n
        self._dtype = DATA_DTYPES[config.operand.element]
        scales = config.n // config.operand.block.cols
        is_packed = config.layout.scales == "packed_pow2"
        self._columns = -(-scales // 4) if is_packed else scales
        self._scale_dtype = torch.int32 if is_packed else torch.float32
        self._extents: dict[int, Extents] = {}

    def extents(self, t: int) -> Extents:
        """Give the sizes for t tokens."""
        found = self._extents.get(t)
        if found is None:
            if len(self._extents) >= _KEPT:
                self._extents = {}  # a new one: another thread may be reading
            groups, columns, rows, n = self._groups, self._columns, -(-t // 4) * 4, self._n
            found = self._extents[t] = Extents(
                shape=(t, groups, n),
                data_strides=(n, t * n, 1),
                scales=(t, groups, columns),
                scale_strides=(1, columns * rows, rows),
                storage=groups * columns * rows,
            )
        return found

    def new(self, t: int, device: torch.device) -> QuantizedTensor:
        """Allocate an output for t tokens; nothing of it is written."""
        e = self.extents(t)
        data = torch.empty_strided(e.shape, e.data_strides, dtype=self._dtype, device=device)
        whole = torch.empty(e.storage, dtype=self._scale_dtype, device=device)
        scales = whole.as_strided(e.scales, e.scale_strides)
        return QuantizedTensor(data, scales, None, self._operand, self._layout, e.shape)

    def take(self, out: QuantizedTensor | None, t: int, device: torch.device) -> QuantizedTensor:
        """Give ``out`` when it can be written into, a new output when it is None.

        Raises:
            LayoutError, ShapeError, DtypeError, InputError: ``out`` is another one.
        """
        if out is None:
            return self.new(t, device)
        if not self._is_plainly_right(out, t, device):
            check_out(out, self._operand, self._layout, (t, self._groups, self._n), device)
        return out

    def _is_plainly_right(self, out: QuantizedTensor, t: int, device: torch.device) -> bool:
        """Tell whether an output is as `new` makes it; the others are looked at one by one."""
        e = self.extents(t)
        data, scales = out.data, out.scales
        return (
            out.layout is self._layout
            and out.operand is self._operand
            and out.logical_shape == e.shape
            and data.dtype is self._dtype
            and data.shape == e.shape
            and data.stride() == e.data_strides
            and data.device == device
            and scales.dtype is self._scale_dtype
            and scales.shape == e.scales
            and scales.stride() == e.scale_strides
            and scales.device == device
            and out.global_scale is None
            and _held(scales) >= e.storage
        )


def _held(scales: torch.Tensor) -> int:
    """Give the elements from the first of a tensor to the end of its storage."""
    return int(scales.untyped_storage().nbytes() // 4 - scales.storage_offset())
