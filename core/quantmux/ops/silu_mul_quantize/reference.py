"""The reference of ``silu_mul_quantize``: what the op means, on plain PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux.ops.checks import check_matrix
from quantmux.ops.quantize.reference import quantize_values

if TYPE_CHECKING:
    from quantmux.config import SiluMulQuantizeConfig
    from quantmux.ops.quantized import QuantizedTensor


def silu_mul_quantize(
    x: torch.Tensor,
    config: SiluMulQuantizeConfig,
    *,
    scale: torch.Tensor | None = None,
    global_scale: torch.Tensor | None = None,
    out: QuantizedTensor | None = None,
) -> QuantizedTensor:
    """Quantize ``silu(gate) · up`` of x [M, 2n] = [gate | up], fp32 until the codes.

    Args:
        x: [M, 2n] in ``config.in_dtype``; any strides.
        config: Operand, layout and input format of the result [M, n].
        scale: fp32 [1] multiplier of static operands, else None.
        global_scale: fp32 [1] multiplier g of NVFP4; None computes it from the product.
        out: Written into, padding included, and returned; allocated when None.

    Returns:
        The quantized matrix [M, n]; every byte of its padded extents is written.

    Raises:
        ShapeError: x or a scale has another shape.
        DtypeError: x or a scale has another dtype.
        LayoutError: ``out`` has another layout, or the config names a plugin's.
        InputError: A scale is missing, superfluous, on another device, not finite, not positive,
            or no power of two though the operand says so.
    """
    check_matrix(x, 2 * config.n, config.in_dtype)
    return quantize_values(
        silu_mul(x),
        config.operand,
        config.layout,
        scale=scale,
        global_scale=global_scale,
        out=out,
    )


def silu_mul(x: torch.Tensor) -> torch.Tensor:
    """Give ``RN(RN(gate / RN(1 + RN(exp(-gate)))) · up)`` as fp32 [M, n] of x [M, 2n]."""
    gate, up = x.to(torch.float32).chunk(2, dim=1)
    return gate / (1.0 + torch.exp(-gate)) * up
