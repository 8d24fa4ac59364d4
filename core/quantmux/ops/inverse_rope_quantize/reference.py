"""The reference of ``inverse_rope_quantize``: what the op means, on plain PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux.ops.checks import check_out
from quantmux.ops.inverse_rope_quantize.spec import empty_grouped
from quantmux.ops.layouts import as_bits, place_grouped_scales
from quantmux.ops.quantize.reference import quantize_blocks
from quantmux.ops.rope import check_rope_inputs

if TYPE_CHECKING:
    from quantmux.config import InverseRopeQuantizeConfig
    from quantmux.ops.quantized import QuantizedTensor


def inverse_rope_quantize(
    o: torch.Tensor,
    positions: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    config: InverseRopeQuantizeConfig,
    *,
    out: QuantizedTensor | None = None,
) -> QuantizedTensor:
    """Undo RoPE on the last ``rope_dim`` columns of every head and quantize per head group.

    Args:
        o: [T, heads, head_dim] in ``config.in_dtype``; any strides.
        positions: int64 [T], rows of the cache.
        cos_sin_cache: fp32 [P, rope_dim] = cos | sin.
        config: Heads, groups, operand and layout.
        out: Written into, pad rows of the scales included, and returned; allocated when None.

    Returns:
        Logical [T, G, n] on memory [G, T, n]; scales as `place_grouped_scales` says.

    Raises:
        ShapeError: A shape disagrees with the config.
        DtypeError: A dtype disagrees with the config.
        InputError: A position is outside the cache, or devices differ.
        LayoutError: ``out`` has another layout.
    """
    check_rope_inputs(o, positions, cos_sin_cache, config, name="o", reads_positions=True)
    t, groups, n = o.shape[0], config.groups, config.n
    if out is None:
        out = empty_grouped(config, t, o.device)
    else:
        check_out(out, config.operand, config.layout, (t, groups, n), o.device)
    values = inverse_rope(o, positions, cos_sin_cache)
    grouped = values.reshape(t, groups, n).transpose(0, 1)  # [G, T, n]
    codes, scales, _ = quantize_blocks(grouped.reshape(groups * t, n), config.operand)
    as_bits(out.data).copy_(as_bits(codes).view(groups, t, n).transpose(0, 1))
    scales = scales.view(groups, t, n // config.operand.block.cols)
    place_grouped_scales(scales, config.layout, into=out.scales)
    return out


def inverse_rope(
    o: torch.Tensor, positions: torch.Tensor, cos_sin_cache: torch.Tensor
) -> torch.Tensor:
    """Rotate interleaved pairs back: even' = e·cos + o·sin, odd' = o·cos - e·sin.

    Every product and sum is rounded to fp32 on its own (no fused multiply-add).

    Args:
        o: [T, heads, head_dim], any float dtype.
        positions: int64 [T].
        cos_sin_cache: fp32 [P, rope_dim] = cos | sin.

    Returns:
        fp32 [T, heads, head_dim].
    """
    values = o.to(torch.float32).clone()
    rope_dim = cos_sin_cache.shape[1]
    cos, sin = cos_sin_cache[positions].unsqueeze(1).chunk(2, dim=-1)  # [T, 1, rope_dim / 2]
    rotated = values[..., values.shape[-1] - rope_dim :]
    even, odd = rotated[..., 0::2].clone(), rotated[..., 1::2].clone()
    rotated[..., 0::2] = even * cos + odd * sin
    rotated[..., 1::2] = odd * cos - even * sin
    return values
