"""Outputs of inverse_rope_quantize: allocated with numbers computed at bind, or checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux.ops.checks import check_out
from quantmux.ops.quantized import DATA_DTYPES, QuantizedTensor

if TYPE_CHECKING:
    from quantmux.config import InverseRopeQuantizeConfig


class GroupedOutputs:
    """Makes the outputs of one config: logical [T, G, n] on memory [G, T, n].

    Args:
        config: Heads, groups, operand and layout.

    Attributes:
        columns: Columns of scales (of words when packed) of one group of heads.
    """

    def __init__(self, config: InverseRopeQuantizeConfig) -> None:
        self._operand = config.operand
        self._layout = config.layout
        self._groups = config.groups
        self._n = config.n
        self._dtype = DATA_DTYPES[config.operand.element]
        scales = config.n // config.operand.block.cols
        is_packed = config.layout.scales == "packed_pow2"
        self.columns = -(-scales // 4) if is_packed else scales
        self._scale_dtype = torch.int32 if is_packed else torch.float32

    def new(self, t: int, device: torch.device) -> QuantizedTensor:
        """Allocate an output for t tokens; nothing of it is written."""
        groups, columns, rows = self._groups, self.columns, -(-t // 4) * 4
        shape = (t, groups, self._n)
        data = torch.empty((groups, t, self._n), dtype=self._dtype, device=device)
        scales = torch.empty(groups * columns * rows, dtype=self._scale_dtype, device=device)
        return QuantizedTensor(
            data.transpose(0, 1),
            scales.as_strided((t, groups, columns), (1, columns * rows, rows)),
            None,
            self._operand,
            self._layout,
            shape,
        )

    def take(self, out: QuantizedTensor | None, t: int, device: torch.device) -> QuantizedTensor:
        """Give ``out`` when it can be written into, a new output when it is None.

        Raises:
            LayoutError, ShapeError, DtypeError, InputError: ``out`` is another one.
        """
        if out is None:
            return self.new(t, device)
        check_out(out, self._operand, self._layout, (t, self._groups, self._n), device)
        return out
