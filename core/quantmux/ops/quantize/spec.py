"""The specification of ``quantize``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux.ops.inputs import make_matrix, static_global_scale, static_scale
from quantmux.ops.quantized import QuantizedTensor, empty_quantized
from quantmux.ops.spec import Call, Case, OpSpec

if TYPE_CHECKING:
    from quantmux.config import QuantizeConfig, RmsNormQuantizeConfig, SiluMulQuantizeConfig


def fake_quantized(
    config: QuantizeConfig | SiluMulQuantizeConfig | RmsNormQuantizeConfig, m: int
) -> QuantizedTensor:
    """Give an output of the right shape, strides and dtype on the meta device."""
    return empty_quantized(config.operand, config.layout, m, config.n, "meta")


def given_scales(case: Case, device: torch.device | str) -> dict[str, torch.Tensor]:
    """Give the scales that a static operand needs, as keyword arguments of the call."""
    operand = case.config.operand
    scales = {}
    if not operand.dynamic and case.kind == "ties":
        # halfway points in units of the scale
        scales["scale"] = torch.tensor([case.magnitude], dtype=torch.float32, device=device)
    elif not operand.dynamic:
        scales["scale"] = static_scale(operand, case.magnitude, device)
    if operand.global_scale == "static":
        scales["global_scale"] = static_global_scale(case.magnitude, device)
    return scales


def make_inputs(case: Case, device: torch.device | str, seed: int) -> Call:
    """Give x [M, n] and, for static operands, the scale."""
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
    return Call((x,), given_scales(case, device))


def build_spec() -> OpSpec:
    """Give the op's specification."""
    from quantmux.ops.quantize.cases import cases
    from quantmux.ops.quantize.reference import quantize

    return OpSpec(
        name="quantize",
        summary="a plain matrix into an operand and a layout",
        reference=quantize,
        fake=fake_quantized,
        cases=cases,
        inputs=make_inputs,
    )
