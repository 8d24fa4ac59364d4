"""How far a linear's output may be from the reference, and where it is too far.

Every element: ``|y - r| <= ½ ulp_out(r) + accumulation slack``, r in fp64 before rounding; and the
whole, by its relative Frobenius error. README.md of this folder derives the slack and lists what
was measured on an H200.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from quantmux.errors import NumericsError, ShapeError
from quantmux.ops.linear.reference import activation_values, alpha_of, weight_parts
from quantmux.ops.linear.weights import check_weights
from quantmux.ops.numerics import round_once
from quantmux.ops.quantized import DTYPES, QuantizedTensor

if TYPE_CHECKING:
    from quantmux.config import LinearConfig, Scheme
    from quantmux.ops.quantized import LinearWeights

# dtype → (explicit mantissa bits, exponent of the least normal number)
_FORMS: Final = {
    torch.bfloat16: (7, -126),
    torch.float16: (10, -14),
    torch.float32: (23, -126),
}

_FP32: Final = 2.0**-23
"""Unit of an fp32 accumulator that truncates."""

_SHORT: Final = 2.0**-13
"""Unit of Hopper's FP8 accumulator: every product is truncated 13 bits below the largest addend."""

_PROMOTION: Final = 128
"""Products that exact accumulation may add up in the short accumulator before it promotes."""

_ELEMENT, _WHOLE = 2.0, 0.25
"""Factors of the short accumulator's expected error: of one element, and root mean square."""


@dataclass(frozen=True, slots=True, eq=False)
class Magnitude:
    """What errors of accumulation scale with, per output element.

    Attributes:
        total: ``Σ|a||b|``, fp64 [M, N].
        spread: ``√Σ(a·b)²``, fp64 [M, N]: the size of a sum of these products with random signs.
        bias: fp64 [N], which y holds beside the sum of the products, or None.
    """

    total: torch.Tensor
    spread: torch.Tensor
    bias: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Bad:
    """The first element that is too far off.

    Attributes:
        coordinate: (row, column).
        value: What the kernel gave.
        reference: What the reference gives.
        ulp: Spacing of the output format there.
        allowed: Largest distance that would have passed.
    """

    coordinate: tuple[int, int]
    value: float
    reference: float
    ulp: float
    allowed: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What comparing an output with the reference found.

    Attributes:
        ok: Whether every element and the whole are within tolerance.
        rel_error: Relative Frobenius error over the elements that are finite in both.
        tolerance: What ``rel_error`` may be at most.
        worst: Largest ``|y - r|`` in units of what was allowed for its element.
        first_bad: The first element out of tolerance, or None.
    """

    ok: bool
    rel_error: float
    tolerance: float
    worst: float
    first_bad: Bad | None

    def require(self, what: str) -> None:
        """Raise if the output is out of tolerance.

        Raises:
            NumericsError: It is; names the first element.
        """
        if self.ok:
            return
        facts: dict[str, object] = {
            "relative error": f"{self.rel_error:.3g}, at most {self.tolerance:.3g}"
        }
        bad = self.first_bad
        if bad is not None:
            facts["at"] = list(bad.coordinate)
            facts["need"] = f"{bad.reference:.9g} within {bad.allowed:.3g} (ulp {bad.ulp:.3g})"
            facts["found"] = f"{bad.value:.9g}"
        raise NumericsError(f"{what} disagrees with the reference", facts=facts)


def linear_magnitude(
    x: torch.Tensor | QuantizedTensor, weights: LinearWeights, config: LinearConfig
) -> Magnitude:
    """Give ``Σ|a||b|`` and ``√Σ(a·b)²`` of the dequantized operands, and the bias apart.

    Args:
        x: As for `quantmux.ops.linear.reference.linear`.
        weights: Canonical weights.
        config: Shapes, scheme and dtypes.
    """
    check_weights(weights, config)
    a, g_a = activation_values(x, weights, config)
    alpha = alpha_of(g_a, weights)
    scale = 1.0 if alpha is None else alpha.abs()
    total = torch.cat([a.abs() @ w.abs().T for w in weight_parts(weights, config)], dim=1) * scale
    bias = None if weights.bias is None else weights.bias.to(torch.float64)
    if not _is_short(config.scheme):
        return Magnitude(total, total, bias)
    squares = torch.cat([a.square() @ w.square().T for w in weight_parts(weights, config)], dim=1)
    return Magnitude(total, squares.sqrt() * scale, bias)


def compare(
    y: torch.Tensor,
    reference: torch.Tensor,
    *,
    config: LinearConfig,
    magnitude: Magnitude | torch.Tensor,
) -> Comparison:
    """Compare an output with the reference.

    Args:
        y: [M, N] in ``config.out_dtype``, from the kernel under test.
        reference: fp64 [M, N] from `linear_exact`; or an output of `linear`, whose own rounding
            is then allowed for by another half ulp.
        config: Says formats, accumulation and K.
        magnitude: From `linear_magnitude`; a plain ``Σ|a||b|`` [M, N] serves too, more loosely
            where the short accumulator is allowed.

    Raises:
        ShapeError: The shapes differ.
    """
    if isinstance(magnitude, torch.Tensor):
        magnitude = Magnitude(magnitude, magnitude)
    if not y.shape == reference.shape == magnitude.total.shape:
        raise ShapeError(
            "outputs to compare differ in shape",
            facts={
                "y": list(y.shape),
                "reference": list(reference.shape),
                "magnitude": list(magnitude.total.shape),
            },
        )
    out_dtype = DTYPES[config.out_dtype]
    half_ulps = 0.5 if reference.dtype == torch.float64 else 1.0
    got, want = y.to(torch.float64), reference.to(torch.float64)
    full, short = _full_slack(want, magnitude, config), _short_slack(want, magnitude, config)
    total = magnitude.total
    slack = full + torch.minimum(_ELEMENT * short, total)
    step = ulp(want.abs() + slack, out_dtype)
    allowed = half_ulps * step + slack
    distance = (got - want).abs()
    bad = ~((distance <= allowed) | _same_class(got, want, allowed, out_dtype))
    finite = torch.isfinite(got) & torch.isfinite(want)
    rel_error = _relative(got - want, want, finite)
    spared = full + torch.minimum(_WHOLE * short, total)
    tolerance = _relative(half_ulps * step + spared, want, finite)
    first = None
    if bool(bad.any()):
        row, column = (int(i) for i in bad.nonzero()[0])
        at = (row, column)
        first = Bad(at, float(got[at]), float(want[at]), float(step[at]), float(allowed[at]))
    ratio = torch.where(finite, distance / allowed, 0.0)
    worst = float(ratio.max()) if ratio.numel() else 0.0
    return Comparison(first is None and rel_error <= tolerance, rel_error, tolerance, worst, first)


def ulp(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Give the spacing of a format at fp64 values, as fp64; never below that of subnormals."""
    mantissa, least = _FORMS[dtype]
    _, exponent = torch.frexp(value)  # value = f · 2^exponent, f in [½, 1)
    exponent = torch.where(value == 0, least, (exponent - 1).clamp(min=least))
    return torch.ldexp(torch.ones_like(value), exponent - mantissa)


def _is_short(scheme: Scheme) -> bool:
    """Tell whether both operands are FP8, so that the tensor core may add in few bits."""
    activation = scheme.activation
    return activation is not None and all(
        operand.element.startswith("fp8") for operand in (activation, scheme.weight)
    )


def _full_slack(want: torch.Tensor, magnitude: Magnitude, config: LinearConfig) -> torch.Tensor:
    """Allow for an fp32 accumulator that truncates, and for alpha, scales and bias in fp32."""
    is_integer = config.scheme.weight.element == "int8"
    steps = 0 if is_integer else -(-config.k // 16)
    return _FP32 * ((steps + 4) * magnitude.total + 2 * want.abs())


def _short_slack(want: torch.Tensor, magnitude: Magnitude, config: LinearConfig) -> torch.Tensor:
    """Give the error that a short accumulator is expected to make, 0 where none is allowed.

    Of the ``steps`` products that are added before a promotion, each loses up to a unit of the
    accumulator. Losses have the sign of their product: ``steps · |Σ| / Σ|·|`` of them add up, the
    others cancel as a random walk does. The accumulator is as large as the sum, or as a random
    walk on the way.
    """
    if not _is_short(config.scheme):
        return torch.zeros_like(magnitude.total)
    fast = config.scheme.accumulation == "fast"
    steps = config.k if fast else min(config.k, _PROMOTION)
    total = magnitude.total
    sum_ = want if magnitude.bias is None else want - magnitude.bias
    sum_ = torch.minimum(sum_.abs(), total)
    coherent = torch.where(total > 0, sum_ / total, 0.0)
    losses = steps * coherent + math.sqrt(steps)
    return _SHORT * losses * (sum_ + magnitude.spread)


def _same_class(
    got: torch.Tensor, want: torch.Tensor, allowed: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Tell where both are NaN, both the same infinity, or y overflowed as it was allowed to."""
    rounded = round_once(want, dtype).to(torch.float64)
    both_nan = got.isnan() & want.isnan()
    same_inf = got.isinf() & (got == rounded)
    reach = want + torch.sign(got) * allowed
    may_overflow = got.isinf() & (got == round_once(reach, dtype).to(torch.float64))
    return both_nan | same_inf | may_overflow


def _relative(error: torch.Tensor, want: torch.Tensor, finite: torch.Tensor) -> float:
    """Give ‖error‖ / ‖want‖ over the finite elements; ‖error‖ itself where all of want is 0."""
    size = float(want[finite].norm())
    return float(error[finite].norm()) / (size if size > 0.0 else 1.0)
