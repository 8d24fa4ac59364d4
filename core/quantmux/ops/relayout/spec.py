"""The specification of ``relayout``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux.config import QuantizeConfig
from quantmux.ops.quantize.spec import make_inputs as quantize_inputs
from quantmux.ops.quantized import QuantizedTensor, empty_quantized
from quantmux.ops.spec import Call, Case, OpSpec

if TYPE_CHECKING:
    import torch

    from quantmux.config import RelayoutConfig


def fake_relayout(config: RelayoutConfig, m: int) -> QuantizedTensor:
    """Give an output of the right shape, strides and dtype on the meta device."""
    return empty_quantized(config.operand, config.target, m, config.n, "meta")


def make_inputs(case: Case, device: torch.device | str, seed: int) -> Call:
    """Give a quantized matrix in the source layout."""
    from quantmux.ops.quantize.reference import quantize

    config: RelayoutConfig = case.config
    producer = QuantizeConfig(operand=config.operand, n=config.n, layout=config.source)
    made = Case(producer, case.m, case.kind, case.magnitude)
    call = quantize_inputs(made, device, seed)
    (x,) = call.args
    return Call((quantize(x, producer, **call.kwargs),))


def build_spec() -> OpSpec:
    """Give the op's specification."""
    from quantmux.ops.relayout.cases import cases
    from quantmux.ops.relayout.reference import relayout

    return OpSpec(
        name="relayout",
        summary="a quantized matrix from one layout to another",
        reference=relayout,
        fake=fake_relayout,
        cases=cases,
        inputs=make_inputs,
    )
