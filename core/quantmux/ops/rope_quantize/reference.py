"""The reference of ``rope_quantize``: what the op means, on plain PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux.errors import InputError
from quantmux.ops.checks import check_out, check_scales_given
from quantmux.ops.layouts import as_bits
from quantmux.ops.quantize.reference import quantize_blocks
from quantmux.ops.rope import check_rope_inputs
from quantmux.ops.rope_quantize.spec import empty_heads

if TYPE_CHECKING:
    from quantmux.config import RopeQuantizeConfig
    from quantmux.config.fused import RopeAt
    from quantmux.ops.quantized import QuantizedTensor


def rope_quantize(
    x: torch.Tensor,
    positions: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    config: RopeQuantizeConfig,
    *,
    scale: torch.Tensor | None = None,
    out: QuantizedTensor | None = None,
) -> QuantizedTensor:
    """Apply RoPE to ``rope_dim`` columns of every head and quantize all with one scale.

    Args:
        x: [T, heads, head_dim] in ``config.in_dtype``; any strides.
        positions: int64 [T], rows of the cache.
        cos_sin_cache: fp32 [P, rope_dim] = cos | sin.
        config: Heads, dimensions, pairs, operand.
        scale: fp32 [1] multiplier, unless the config has ``static_scale``.
        out: Written into, its scale included, and returned; allocated when None.

    Returns:
        Logical [T, heads, head_dim], contiguous, with the scale fp32 [1].

    Raises:
        ShapeError: A shape disagrees with the config.
        DtypeError: A dtype disagrees with the config.
        InputError: The scale is missing, superfluous or no scale, a position is outside the
            cache, or devices differ.
        LayoutError: ``out`` has another layout.
    """
    check_rope_inputs(x, positions, cos_sin_cache, config, name="x", reads_positions=True)
    given = given_scale(scale, config, x.device)
    shape = (x.shape[0], config.heads, config.head_dim)
    if out is None:
        out = empty_heads(config, shape[0], x.device)
    else:
        check_out(out, config.operand, config.layout, shape, x.device)
    rotated = rope(x, positions, cos_sin_cache, at=config.rope_at, interleaved=config.interleaved)
    rows = rotated.reshape(shape[0] * shape[1], shape[2])
    codes, scales, _ = quantize_blocks(rows, config.operand, scale=given)
    as_bits(out.data).copy_(as_bits(codes).view(shape))
    out.scales.copy_(scales.reshape(1))
    return out


def given_scale(
    scale: torch.Tensor | None, config: RopeQuantizeConfig, device: torch.device
) -> torch.Tensor | None:
    """Give the scale fp32 [1], which comes from the call or from the config.

    Raises:
        InputError: It is missing, or the config has it, too.
    """
    if config.static_scale is None:
        check_scales_given(config.operand, scale, None)
        return scale
    if scale is not None:
        raise InputError(
            f"the config has static_scale = {config.static_scale:g}, and scale= was given, too",
            hint="leave one of them out",
            code="scale",
        )
    return torch.full((1,), config.static_scale, dtype=torch.float32, device=device)


def rope(
    x: torch.Tensor,
    positions: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    *,
    at: RopeAt,
    interleaved: bool,
) -> torch.Tensor:
    """Rotate pairs (a, b): a' = a·cos - b·sin, b' = b·cos + a·sin.

    Every product and sum is rounded to fp32 on its own (no fused multiply-add).

    Args:
        x: [T, heads, head_dim], any float dtype.
        positions: int64 [T].
        cos_sin_cache: fp32 [P, rope_dim] = cos | sin.
        at: Whether the first or the last rope_dim columns of a head are rotated.
        interleaved: Pairs are columns (2i, 2i + 1), else (i, i + rope_dim / 2).

    Returns:
        fp32 [T, heads, head_dim].
    """
    values = x.to(torch.float32, copy=True)
    rope_dim = cos_sin_cache.shape[1]
    half = rope_dim // 2
    cos, sin = cos_sin_cache[positions].unsqueeze(1).chunk(2, dim=-1)  # [T, 1, rope_dim / 2]
    part = values[..., :rope_dim] if at == "first" else values[..., values.shape[-1] - rope_dim :]
    if interleaved:
        first, second = part[..., 0::2], part[..., 1::2]
    else:
        first, second = part[..., :half], part[..., half:]
    a, b = first.clone(), second.clone()
    first.copy_(a * cos - b * sin)
    second.copy_(b * cos + a * sin)
    return values
