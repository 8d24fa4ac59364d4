"""The specification of ``linear``: how its output lies in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from quantmux.config.formats import NVFP4_GLOBAL_DENOMINATOR
from quantmux.config.layouts import round_up
from quantmux.ops.inputs import make_matrix
from quantmux.ops.numerics import finite_amax
from quantmux.ops.quantized import DTYPES
from quantmux.ops.spec import Call, Case, OpSpec

if TYPE_CHECKING:
    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import LinearWeights


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
    is found, and the last one begins with zeros. Static activation scales come from x. A bias is as
    large as typical outputs, and 100 times larger for the kind ``large_bias``.
    """
    x = make_x(case, device, seed)
    return Call((x, with_input_scales(make_weights(case, device, seed), case.config, x)))


def make_x(case: Case, device: torch.device | str, seed: int) -> torch.Tensor:
    """Give the plain x [M, K] of a case; see `make_inputs`."""
    kind = "normal" if case.kind == "large_bias" else case.kind
    config: LinearConfig = case.config
    dtype, size = config.in_dtype, case.magnitude
    return make_matrix(kind, case.m, config.k, dtype, magnitude=size, seed=seed, device=device)


def make_weights(case: Case, device: torch.device | str, seed: int) -> LinearWeights:
    """Give the canonical weights of a case without the scales that come from x.

    They depend on the config, on the seed and, where there is a bias, on the size of that.
    """
    from quantmux.ops.linear.weights import quantize_weight

    config: LinearConfig = case.config
    generator = torch.Generator().manual_seed(seed + 1)
    # dtype and device are named: a program may have set other defaults
    plain: Any = {"dtype": torch.float32, "device": torch.device("cpu")}
    weight = torch.randn(config.n, config.k, generator=generator, **plain) * config.k**-0.5
    bias = None
    if config.bias:
        size = case.magnitude * (100.0 if case.kind == "large_bias" else 1.0)
        bias = (torch.randn(config.n, generator=generator, **plain) * size).to(device)
    # on the device: a product with a power of two and the quantization give the same bits there
    rows = torch.exp2(torch.arange(config.n, **plain) % 3).unsqueeze(1)
    if config.n > 1:
        weight[-1, :16] = 0.0  # a block of zeros, whose NVFP4 scale is 0
    weight = weight.to(device) * rows.to(device)
    return quantize_weight(weight, config.scheme, bias=bias)


def with_input_scales(
    weights: LinearWeights, config: LinearConfig, x: torch.Tensor
) -> LinearWeights:
    """Give weights with the static activation scales that x calls for, where there are any."""
    activation = config.scheme.activation
    if activation is None or not config.scheme.needs_static_activation_scale:
        return weights
    peak = finite_amax(x.to(torch.float32)).clamp(min=2.0**-60)
    if activation.global_scale == "static":
        return replace(weights, input_global_scale=peak / NVFP4_GLOBAL_DENOMINATOR)
    return replace(weights, input_scale=peak / activation.max_value)


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
