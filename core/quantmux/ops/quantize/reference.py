"""The reference of ``quantize``: what the op means, on plain PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from quantmux.errors import ConfigError
from quantmux.ops.checks import check_given_scale, check_matrix, check_out, check_scales_given
from quantmux.ops.layouts import as_bits, place_scales, require_own
from quantmux.ops.numerics import (
    block_amax,
    encode,
    encode_nvfp4,
    expand_blocks,
    nvfp4_block_scales,
    nvfp4_global_scale,
    pack_fp4,
    scale_from_amax,
)
from quantmux.ops.quantized import QuantizedTensor, empty_quantized

if TYPE_CHECKING:
    from quantmux.config import Layout, Operand, QuantizeConfig


def quantize(
    x: torch.Tensor,
    config: QuantizeConfig,
    *,
    scale: torch.Tensor | None = None,
    global_scale: torch.Tensor | None = None,
    out: QuantizedTensor | None = None,
) -> QuantizedTensor:
    """Quantize x [M, n] as the config says.

    Args:
        x: [M, n] in ``config.in_dtype``; any strides.
        config: Operand, layout and input format.
        scale: fp32 [1] multiplier of static operands, else None.
        global_scale: fp32 [1] multiplier g of NVFP4; None computes it from x.
        out: Written into, padding included, and returned; allocated when None.

    Returns:
        The quantized matrix; every byte of its padded extents is written.

    Raises:
        ShapeError: x or a scale has another shape.
        DtypeError: x or a scale has another dtype.
        LayoutError: ``out`` has another layout, or the config names a plugin's.
        InputError: A scale is missing, superfluous, on another device, not finite, not positive,
            or no power of two though the operand says so.
    """
    check_matrix(x, config.n, config.in_dtype)
    return quantize_values(
        x.to(torch.float32),
        config.operand,
        config.layout,
        scale=scale,
        global_scale=global_scale,
        out=out,
    )


def quantize_values(
    values: torch.Tensor,
    operand: Operand,
    layout: Layout,
    *,
    scale: torch.Tensor | None = None,
    global_scale: torch.Tensor | None = None,
    out: QuantizedTensor | None = None,
) -> QuantizedTensor:
    """Quantize fp32 values [M, n] into an operand and a layout; see `quantize`."""
    require_own(layout)
    check_scales_given(operand, scale, global_scale)
    m, n = values.shape
    if out is None:
        out = empty_quantized(operand, layout, m, n, values.device)
    else:
        check_out(out, operand, layout, (m, n), values.device)
    codes, scales, g = quantize_blocks(values, operand, scale=scale, global_scale=global_scale)
    write_data(out.data, codes, operand, layout)
    place_scales(scales, operand, layout, m, into=out.scales)
    if g is not None and out.global_scale is not None:
        out.global_scale.copy_(g)
    return out


def quantize_blocks(
    values: torch.Tensor,
    operand: Operand,
    *,
    scale: torch.Tensor | None = None,
    global_scale: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Give codes, canonical scales and global scale of fp32 values, without any layout.

    Args:
        values: fp32 [M, n].
        operand: What the numbers shall mean; blocks at the edges may be partial.
        scale: fp32 [1] of static operands, which have one scale per tensor.
        global_scale: fp32 [1] multiplier g of NVFP4; None computes it.

    Returns:
        Codes [M, n] (NVFP4: uint8, one code each), scales [R, C], and g (fp32 [1]) or None.

    Raises:
        ConfigError: A static operand with more than one scale.
        InputError: A given scale is none; see `quantize`.
    """
    m, n = values.shape
    if operand.is_nvfp4:
        if global_scale is None:
            g = nvfp4_global_scale(values)
        else:
            g = check_given_scale(global_scale, "global_scale", values.device)
        scales = nvfp4_block_scales(block_amax(values, operand.block), g)
        return encode_nvfp4(values, scales, g), scales, g
    if operand.dynamic or scale is None:
        scales = scale_from_amax(block_amax(values, operand.block), operand)
    elif operand.block.kind != "tensor":
        raise ConfigError(
            f"static activation scales are per tensor, found {operand.name}",
            hint='use "fp8_tensor_static", or a dynamic operand',
        )
    else:
        pow2 = operand.scale_rounding == "pow2"
        scales = check_given_scale(scale, "scale", values.device, pow2=pow2).reshape(1, 1)
    return encode(values, expand_blocks(scales, operand.block, m, n), operand), scales, None


def write_data(data: torch.Tensor, codes: torch.Tensor, operand: Operand, layout: Layout) -> None:
    """Write codes [M, n] into data [padded_m, padded_n] in its storage form, the rest zero."""
    m, n = codes.shape
    target, source = as_bits(data), as_bits(codes)
    if operand.is_nvfp4:
        source = pack_fp4(functional.pad(source, (0, layout.padded_n - n)))
    target.zero_()
    target[:m, : source.shape[1]].copy_(source)
