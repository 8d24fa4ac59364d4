"""The specification of ``silu_mul_quantize``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux.ops.inputs import make_matrix
from quantmux.ops.quantize.spec import fake_quantized, given_scales
from quantmux.ops.spec import Call, Case, OpSpec

if TYPE_CHECKING:
    import torch

    from quantmux.config import SiluMulQuantizeConfig


def make_inputs(case: Case, device: torch.device | str, seed: int) -> Call:
    """Give x [M, 2n] = [gate | up] and, for static operands, the scale."""
    config = case.config
    x = make_matrix(
        case.kind,
        case.m,
        2 * config.n,
        config.in_dtype,
        magnitude=case.magnitude,
        seed=seed,
        device=device,
    )
    return Call((x,), given_scales(case, device))


def values(x: torch.Tensor, config: SiluMulQuantizeConfig) -> torch.Tensor:
    """Give the fp32 product [M, n] that is quantized."""
    from quantmux.ops.silu_mul_quantize.reference import silu_mul

    del config
    return silu_mul(x)


def build_spec() -> OpSpec:
    """Give the op's specification."""
    from quantmux.ops.silu_mul_quantize.cases import cases
    from quantmux.ops.silu_mul_quantize.reference import silu_mul_quantize

    return OpSpec(
        name="silu_mul_quantize",
        summary="silu(gate) · up into an operand and a layout",
        reference=silu_mul_quantize,
        fake=fake_quantized,
        cases=cases,
        inputs=make_inputs,
        values=values,
    )
