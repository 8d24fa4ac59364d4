"""The specification of ``inverse_rope_quantize``."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch

from quantmux.ops.inputs import make_matrix
from quantmux.ops.layouts import empty_grouped_scales
from quantmux.ops.quantized import DATA_DTYPES, QuantizedTensor, scale_dtype
from quantmux.ops.spec import Call, Case, OpSpec

if TYPE_CHECKING:
    from quantmux.config import InverseRopeQuantizeConfig

CACHE_ROWS = 4096
"""Positions in the cos/sin cache of test inputs."""


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
    config = case.config
    rows = case.m * config.heads
    o = make_matrix(
        case.kind,
        rows,
        config.head_dim,
        config.in_dtype,
        magnitude=case.magnitude,
        seed=seed,
        device=device,
    )
    generator = torch.Generator().manual_seed(seed + 1)
    positions = torch.randint(0, CACHE_ROWS, (case.m,), generator=generator)
    return Call(
        (
            o.view(case.m, config.heads, config.head_dim),
            positions.to(device),
            make_cos_sin_cache(CACHE_ROWS, config.rope_dim).to(device),
        )
    )


@cache
def make_cos_sin_cache(rows: int, rope_dim: int, base: float = 10000.0) -> torch.Tensor:
    """Give a RoPE cache fp32 [rows, rope_dim] = cos | sin; the same tensor each time."""
    half = torch.arange(0, rope_dim, 2, dtype=torch.float64) / rope_dim
    angles = torch.arange(rows, dtype=torch.float64)[:, None] * base**-half
    return torch.cat((angles.cos(), angles.sin()), dim=1).to(torch.float32)


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
