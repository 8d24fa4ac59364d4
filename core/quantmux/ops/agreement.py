"""Whether a result agrees with the definition of its op: one question for every op.

The first-use self-check, the conformance suite and the benchmark's gate all ask it here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from quantmux.errors import QuantmuxError
from quantmux.ops.linear.reference import linear_exact
from quantmux.ops.linear.tolerance import compare, linear_magnitude
from quantmux.ops.quantize.compare import SCALE_TOLERANCE, Freedom, compare_quantized
from quantmux.ops.quantized import DTYPES, QuantizedTensor
from quantmux.ops.spec import op_spec

if TYPE_CHECKING:
    from collections.abc import Collection

    from quantmux.config import LayerConfig, LinearConfig
    from quantmux.ops.linear.tolerance import Magnitude
    from quantmux.ops.spec import Call

_ELEMENTS_OF_LOOSE: float = 4.0
"""An element may be this many times further off than the whole, relative to Σ|a||b|."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What comparing a result with the reference found.

    Attributes:
        ok: It agrees.
        error: Relative Frobenius error (linear), or share of elements that differ.
        reason: What disagrees first, one line; "" when nothing does.
    """

    ok: bool
    error: float
    reason: str = ""


def agreement(
    config: LayerConfig,
    call: Call,
    result: Any,
    *,
    rel_tolerance: float | None = None,
    tags: Collection[str] = (),
) -> Agreement:
    """Compare a result with the reference.

    Args:
        config: Config of the op.
        call: What the kernel was given; for a linear (x, weights), x as the kernel got it.
        result: What it returned.
        rel_tolerance: `Capability.rel_tolerance`: bound on the relative Frobenius error where it
            is looser than the op's; of an ``approximate`` quantizer, how far its values may be off.
        tags: `Capability.tags`: with ``approximate`` a quantizer is judged as ops with rounding
            freedom are, with ``finite_only`` what it makes of NaN and Inf is left open.
    """
    try:
        if config.op == "linear":
            return _linear(config, call, result, rel_tolerance)
        return _quantized(config, call, result, _freedom(rel_tolerance, tags))
    except QuantmuxError as error:
        return Agreement(False, float("inf"), "; ".join((error.headline, *error.facts)))


def _linear(
    config: LinearConfig, call: Call, result: Any, rel_tolerance: float | None
) -> Agreement:
    x, weights = call.args
    want = linear_exact(x, weights, config)
    size = linear_magnitude(x, weights, config)
    return linear_agreement(config, want, size, result, rel_tolerance=rel_tolerance)


def linear_agreement(
    config: LinearConfig,
    want: torch.Tensor,
    size: Magnitude,
    result: Any,
    *,
    rel_tolerance: float | None = None,
) -> Agreement:
    """Compare a linear's y with a reference at hand: one serves every kernel of a config.

    Args:
        config: What the kernel computes.
        want: `linear_exact` of the input, fp64 [M, N].
        size: `linear_magnitude` of it.
        result: What the kernel returned.
        rel_tolerance: See `agreement`.
    """
    problem = _output_problem(result, want, DTYPES[config.out_dtype])
    if problem:
        return Agreement(False, float("inf"), problem)
    found = compare(result, want, config=config, magnitude=size)
    if found.ok:
        return Agreement(True, found.rel_error)
    if rel_tolerance is not None and found.rel_error <= rel_tolerance:
        distance = (result.to(torch.float64) - want).abs()
        allowed = _ELEMENTS_OF_LOOSE * rel_tolerance * (size.total + want.abs())
        same = torch.isfinite(result) == torch.isfinite(want)
        if bool((same & ((distance <= allowed) | ~torch.isfinite(want))).all()):
            return Agreement(True, found.rel_error)
    reason = f"relative error {found.rel_error:.3g}, at most {found.tolerance:.3g}"
    if found.first_bad is not None:
        bad = found.first_bad
        reason += (
            f"; at {list(bad.coordinate)} needs {bad.reference:.6g} within {bad.allowed:.2g}, "
            f"found {bad.value:.6g}"
        )
    return Agreement(False, found.rel_error, reason)


def _output_problem(result: Any, want: torch.Tensor, dtype: torch.dtype) -> str:
    if not isinstance(result, torch.Tensor):
        return f"needs a tensor, found {type(result).__name__}"
    for name, have, need in (
        ("shape", tuple(result.shape), tuple(want.shape)),
        ("dtype", result.dtype, dtype),
    ):
        if have != need:
            return f"{name}: needs {need}, found {have}"
    return ""


def _freedom(rel_tolerance: float | None, tags: Collection[str]) -> Freedom:
    return Freedom(
        approximate="approximate" in tags,
        finite_only="finite_only" in tags,
        tolerance=max(rel_tolerance or 0.0, SCALE_TOLERANCE),
    )


def _quantized(config: LayerConfig, call: Call, result: Any, freedom: Freedom) -> Agreement:
    if not isinstance(result, QuantizedTensor):
        return Agreement(
            False, float("inf"), f"needs a QuantizedTensor, found {type(result).__name__}"
        )
    spec = op_spec(config.op)
    result.check()
    want = spec.reference(*call.args, config, **call.kwargs)
    if not isinstance(want, QuantizedTensor):
        raise TypeError(f"the reference of {config.op} gave {type(want).__name__}")
    for name, have, need in (
        ("operand", result.operand, want.operand),
        ("layout", result.layout, want.layout),
        ("logical shape", result.logical_shape, want.logical_shape),
    ):
        if have != need:
            return Agreement(False, float("inf"), f"{name}: needs {need}, found {have}")
    values = None if spec.values is None else spec.values(*call.args, config)
    if values is None and config.op == "quantize" and (freedom.approximate or freedom.finite_only):
        values = call.args[0].to(torch.float32)
    found = compare_quantized(result, want, values=values, freedom=freedom)
    share = found.mismatches / max(result.data.numel(), 1)
    if found.ok:
        return Agreement(True, share)
    reason = (
        f"{found.part} at {list(found.coordinate)} needs {found.want:.9g}, found {found.got:.9g}; "
        f"{found.mismatches} differ"
    )
    return Agreement(False, share, reason)
