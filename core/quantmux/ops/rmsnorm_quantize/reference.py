"""The reference of ``rmsnorm_quantize``: what the op means, on plain PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux.errors import ShapeError
from quantmux.ops.checks import check_device, check_dtype, check_matrix
from quantmux.ops.quantize.reference import quantize_values

if TYPE_CHECKING:
    from quantmux.config import RmsNormQuantizeConfig
    from quantmux.ops.quantized import QuantizedTensor


def rmsnorm_quantize(
    x: torch.Tensor,
    weight: torch.Tensor,
    config: RmsNormQuantizeConfig,
    *,
    scale: torch.Tensor | None = None,
    global_scale: torch.Tensor | None = None,
    out: QuantizedTensor | None = None,
) -> QuantizedTensor:
    """Quantize ``x / sqrt(mean(x²) + norm_eps) · weight`` of x [M, n], fp32 until the codes.

    The layer is RMSNorm of Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.

    Args:
        x: [M, n] in ``config.in_dtype``; any strides.
        weight: [n] in ``config.weight_dtype``.
        config: Operand, layout, input format and norm_eps.
        scale: fp32 [1] multiplier of static operands, else None.
        global_scale: fp32 [1] multiplier g of NVFP4; None computes it from the normalized values.
        out: Written into, padding included, and returned; allocated when None.

    Returns:
        The quantized matrix [M, n]; every byte of its padded extents is written.

    Raises:
        ShapeError: x, the weight or a scale has another shape.
        DtypeError: x, the weight or a scale has another dtype.
        LayoutError: ``out`` has another layout, or the config names a plugin's.
        InputError: A scale is missing, superfluous, on another device, not finite, not positive,
            or no power of two though the operand says so; or the weight is on another device.
    """
    check_matrix(x, config.n, config.in_dtype)
    check_weight(weight, config, x.device)
    return quantize_values(
        rmsnorm(x, weight, config.norm_eps),
        config.operand,
        config.layout,
        scale=scale,
        global_scale=global_scale,
        out=out,
    )


def check_weight(weight: torch.Tensor, config: RmsNormQuantizeConfig, device: torch.device) -> None:
    """Check the weight of a norm.

    Raises:
        ShapeError: Not [n].
        DtypeError: Another dtype than the config says.
        InputError: It is on another device than x.
    """
    if tuple(weight.shape) != (config.n,):
        raise ShapeError(
            "weight has the wrong shape", facts={"need": [config.n], "found": list(weight.shape)}
        )
    check_dtype(weight, config.weight_dtype, "weight")
    check_device(weight, "weight", device)


def rmsnorm(x: torch.Tensor, weight: torch.Tensor, norm_eps: float) -> torch.Tensor:
    """Give ``RN(RN(x · r) · weight)`` as fp32 [M, n], r one number per row.

    r = RN(1 / sqrt(RN(RN(mean(x²)) + norm_eps))). The mean is that of the exact squares, so that
    no order of summation is part of the definition. Mean and root are computed in fp64, which
    rounds them to fp32 alike everywhere; torch's fp32 root on the CPU is off by an ulp at times.
    """
    values = x.to(torch.float32)
    mean = values.to(torch.float64).square().mean(dim=1, keepdim=True).to(torch.float32)
    r = (mean + norm_eps).to(torch.float64).rsqrt().to(torch.float32)
    return values * r * weight.to(torch.float32)
