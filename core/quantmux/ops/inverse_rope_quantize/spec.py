"""The specification of ``inverse_rope_quantize``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux.ops.layouts import empty_grouped_scales
from quantmux.ops.quantized import DATA_DTYPES, QuantizedTensor, scale_dtype

if TYPE_CHECKING:
    from quantmux.config import InverseRopeQuantizeConfig


def empty_grouped(
    config: InverseRopeQuantizeConfig, t: int, device: torch.device | str
) -> QuantizedTensor:
    """Allocate an uninitialised result, logical [T, G, n] on memory [G, T, n]."""
    operand, layout = config.operand, config.layout
    dtype = DATA_DTYPES[operand.element]
    data = torch.empty((config.groups, t, config.n), dtype=dtype, device=device).transpose(0, 1)
    cols = config.n // operand.block.cols
    if layout.scales == "packed_pow2":
        cols = -(-cols // 4)
    scales = empty_grouped_scales(
        config.groups, t, cols, scale_dtype(operand, layout), device
    )
    return QuantizedTensor(data, scales, None, operand, layout, (t, config.groups, config.n))
