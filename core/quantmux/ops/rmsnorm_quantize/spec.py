"""The specification of ``rmsnorm_quantize``."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from quantmux.ops.inputs import make_matrix
from quantmux.ops.quantize.spec import fake_quantized, given_scales
from quantmux.ops.quantized import DTYPES
from quantmux.ops.spec import Call, Case, OpSpec

if TYPE_CHECKING:
    from quantmux.config import RmsNormQuantizeConfig


def make_inputs(case: Case, device: torch.device | str, seed: int) -> Call:
    """Give x [M, n], the weight [n] and, for static operands, the scale."""
    config = case.config
    x = make_matrix(
        case.kind,
        case.m,
        config.n,
        config.in_dtype,
        magnitude=case.magnitude,
        seed=seed,
        device=device,
    )
    # what is quantized has the size of the weight, unless norm_eps outweighs the squares of x
    size = case.magnitude / math.sqrt(case.magnitude**2 + config.norm_eps)
    scales = given_scales(replace(case, kind="normal", magnitude=size), device)
    return Call((x, make_weight(config, seed).to(device)), scales)


def make_weight(config: RmsNormQuantizeConfig, seed: int) -> torch.Tensor:
    """Give a weight [n] around 1, a few elements of it below 0 or 0."""
    generator = torch.Generator().manual_seed(seed + 1)
    weight = 1.0 + 0.5 * torch.randn(config.n, generator=generator, dtype=torch.float32)
    weight[3::64] = 0.0
    return weight.to(DTYPES[config.weight_dtype])


def values(x: torch.Tensor, weight: torch.Tensor, config: RmsNormQuantizeConfig) -> torch.Tensor:
    """Give the fp32 values [M, n] that are quantized."""
    from quantmux.ops.rmsnorm_quantize.reference import rmsnorm

    return rmsnorm(x, weight, config.norm_eps)


def build_spec() -> OpSpec:
    """Give the op's specification."""
    from quantmux.ops.rmsnorm_quantize.cases import cases
    from quantmux.ops.rmsnorm_quantize.reference import rmsnorm_quantize

    return OpSpec(
        name="rmsnorm_quantize",
        summary="RMSNorm with a weight into an operand and a layout",
        reference=rmsnorm_quantize,
        fake=fake_quantized,
        cases=cases,
        inputs=make_inputs,
        values=values,
    )
