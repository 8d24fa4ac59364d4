"""The specification of ``inverse_rope_quantize``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux.ops.layouts import empty_grouped_scales
from quantmux.ops.quantized import DATA_DTYPES, QuantizedTensor, scale_dtype
from quantmux.ops.rope import CACHE_ROWS, make_cos_sin_cache, make_heads
from quantmux.ops.spec import Call, Case, OpSpec

if TYPE_CHECKING:
    from quantmux.config import InverseRopeQuantizeConfig

__all__ = ["CACHE_ROWS", "build_spec", "empty_grouped", "make_cos_sin_cache", "make_inputs"]


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
    scales = empty_grouped_scales(config.groups, t, cols, scale_dtype(operand, layout), device)
    return QuantizedTensor(data, scales, None, operand, layout, (t, config.groups, config.n))


def make_inputs(case: Case, device: torch.device | str, seed: int) -> Call:
    """Give o [T, heads, head_dim], positions [T] and the cache [P, rope_dim]."""
    return Call(make_heads(case, device, seed))


def values(
    o: torch.Tensor,
    positions: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    config: InverseRopeQuantizeConfig,
) -> torch.Tensor:
    """Give the fp32 values [T, G, n] that are quantized."""
    from quantmux.ops.inverse_rope_quantize.reference import inverse_rope

    rotated = inverse_rope(o, positions, cos_sin_cache)
    return rotated.reshape(o.shape[0], config.groups, config.n)


def fake_grouped(config: InverseRopeQuantizeConfig, t: int) -> QuantizedTensor:
    """Give an output of the right shape, strides and dtype on the meta device."""
    return empty_grouped(config, t, "meta")


def build_spec() -> OpSpec:
    """Give the op's specification."""
    from quantmux.ops.inverse_rope_quantize.cases import cases
    from quantmux.ops.inverse_rope_quantize.reference import inverse_rope_quantize

    return OpSpec(
        name="inverse_rope_quantize",
        summary="undo RoPE on attention output and quantize per head group",
        reference=inverse_rope_quantize,
        fake=fake_grouped,
        cases=cases,
        inputs=make_inputs,
        values=values,
    )
