"""The specification of ``rope_quantize``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux.ops.quantize.spec import given_scales
from quantmux.ops.quantized import DATA_DTYPES, QuantizedTensor
from quantmux.ops.rope import make_heads
from quantmux.ops.spec import Call, Case, OpSpec

if TYPE_CHECKING:
    from quantmux.config import RopeQuantizeConfig


def empty_heads(config: RopeQuantizeConfig, t: int, device: torch.device | str) -> QuantizedTensor:
    """Allocate an uninitialised result [T, heads, head_dim], contiguous, and its scale [1]."""
    operand = config.operand
    shape = (t, config.heads, config.head_dim)
    data = torch.empty(shape, dtype=DATA_DTYPES[operand.element], device=device)
    scales = torch.empty(1, dtype=torch.float32, device=device)
    return QuantizedTensor(data, scales, None, operand, config.layout, shape)


def make_inputs(case: Case, device: torch.device | str, seed: int) -> Call:
    """Give x [T, heads, head_dim], positions [T], the cache [P, rope_dim], and the scale if due."""
    given = given_scales(case, device) if case.config.static_scale is None else {}
    return Call(make_heads(case, device, seed), given)


def values(
    x: torch.Tensor,
    positions: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    config: RopeQuantizeConfig,
) -> torch.Tensor:
    """Give the fp32 values [T, heads, head_dim] that are quantized."""
    from quantmux.ops.rope_quantize.reference import rope

    return rope(x, positions, cos_sin_cache, at=config.rope_at, interleaved=config.interleaved)


def fake_heads(config: RopeQuantizeConfig, t: int) -> QuantizedTensor:
    """Give an output of the right shape, strides and dtype on the meta device."""
    return empty_heads(config, t, "meta")


def build_spec() -> OpSpec:
    """Give the op's specification."""
    from quantmux.ops.rope_quantize.cases import cases
    from quantmux.ops.rope_quantize.reference import rope_quantize

    return OpSpec(
        name="rope_quantize",
        summary="RoPE on query or key heads, quantized with one given scale",
        reference=rope_quantize,
        fake=fake_heads,
        cases=cases,
        inputs=make_inputs,
        values=values,
    )
