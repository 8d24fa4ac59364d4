"""The specification of ``linear``: how its output lies in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux.config.formats import NVFP4_GLOBAL_DENOMINATOR
from quantmux.config.layouts import round_up
from quantmux.ops.inputs import make_matrix
from quantmux.ops.numerics import finite_amax
from quantmux.ops.quantized import DTYPES
from quantmux.ops.spec import Call, Case, OpSpec

if TYPE_CHECKING:
    from quantmux.config import LinearConfig


def empty_output(
    m: int,
    n: int,
    dtype: torch.dtype,
    device: torch.device | str,
    row_multiple: int = 8,
    contiguous: bool = False,
) -> torch.Tensor:
    """Allocate an uninitialised output [m, n].

    Args:
        m: Rows.
        n: Logical columns.
        dtype: Of the output.
        device: Of the output.
        row_multiple: Rows lie this multiple of elements apart when n is not one.
        contiguous: Ask for contiguous rows whatever n is.

    Returns:
        [m, n]: contiguous when n is a multiple of ``row_multiple`` or ``contiguous`` asks for it,
        else a view with row stride ``round_up(n, row_multiple)``; the gap belongs to nobody.
    """
    if contiguous or n % row_multiple == 0:
        return torch.empty((m, n), dtype=dtype, device=device)
    return torch.empty((m, round_up(n, row_multiple)), dtype=dtype, device=device)[:, :n]


def fake_linear(config: LinearConfig, m: int) -> torch.Tensor:
    """Give an output of the right shape, strides and dtype on the meta device."""
    dtype = DTYPES[config.out_dtype]
    return empty_output(m, config.n, dtype, "meta", contiguous=config.contiguous_output)


def make_inputs(case: Case, device: torch.device | str, seed: int) -> Call:
    """Give a plain x [M, K] and canonical weights.

    The weight's rows differ in size by up to 4 times, so that a kernel which mixes up row scales
    is found. Static activation scales come from x. A bias is as large as typical outputs, and
    100 times larger for the kind ``large_bias``.
    """
    from quantmux.ops.linear.weights import quantize_weight

    config: LinearConfig = case.config
    kind = "normal" if case.kind == "large_bias" else case.kind
    x = make_matrix(kind, case.m, config.k, config.in_dtype, magnitude=case.magnitude, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    weight = torch.randn(config.n, config.k, generator=generator) * config.k**-0.5
    weight *= torch.exp2(torch.arange(config.n) % 3).unsqueeze(1)
    bias = None
    if config.bias:
        size = case.magnitude * (100.0 if case.kind == "large_bias" else 1.0)
        bias = torch.randn(config.n, generator=generator) * size
    peak = finite_amax(x.to(torch.float32)).clamp(min=2.0**-60)
    activation = config.scheme.activation
    scale = global_scale = None
    if activation is not None and not activation.dynamic:
        scale = peak / activation.max_value
    if activation is not None and activation.global_scale == "static":
        global_scale = peak / NVFP4_GLOBAL_DENOMINATOR
    weights = quantize_weight(
        weight,
        config.scheme,
        bias=bias,
        input_scale=scale,
        input_global_scale=global_scale,
    )
    return Call((x.to(device), weights.to(device)))


def build_spec() -> OpSpec:
    """Give the op's specification."""
    from quantmux.ops.linear.cases import cases
    from quantmux.ops.linear.reference import linear

    return OpSpec(
        name="linear",
        summary="y = x · Wᵀ + bias with quantized weights",
        reference=linear,
        fake=fake_linear,
        cases=cases,
        inputs=make_inputs,
    )
