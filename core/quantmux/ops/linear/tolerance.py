"""How far a linear's output may be from the reference, and where it is too far.

``|y - r| ≤ ½ ulp_out(r) + γ · (Σ|a||b| + |bias|)`` for every element, r in fp64 before rounding;
and the relative Frobenius error as a whole. README.md of this folder derives γ and lists what was
measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from quantmux.errors import NumericsError, ShapeError
from quantmux.ops.numerics import round_once
from quantmux.ops.quantized import DTYPES

if TYPE_CHECKING:
    from quantmux.config import LinearConfig

# dtype → (explicit mantissa bits, exponent of the least normal number)
_FORMS: Final = {
    torch.bfloat16: (7, -126),
    torch.float16: (10, -14),
    torch.float32: (23, -126),
}

_SHORT: Final = 2.0**-13
"""Unit of Hopper's FP8 accumulator: 13 fraction bits below the largest addend, truncated."""

_FP32: Final = 2.0**-23
"""Unit of an fp32 accumulator that truncates."""


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


def accumulation_gamma(config: LinearConfig) -> float:
    """Give γ: the error of accumulation that is allowed, relative to ``Σ|a||b|``.

    Integers: none. Exact: an fp32 accumulator that truncates once per step of 16, and for FP8
    activations the short accumulator within the steps between promotions. Fast, which means
    something for FP8 times FP8 only: the short accumulator over all steps of K.
    """
    scheme = config.scheme
    if scheme.weight.element == "int8":
        return 4 * _FP32  # only scales and bias are floating point
    full = _FP32 * (16 + -(-config.k // 16))
    if scheme.activation is None or scheme.activation.is_nvfp4:
        return full
    if scheme.accumulation == "exact":
        return full + _SHORT
    return full + _SHORT * max(1.0, (config.k / 512) ** 0.5)


def compare(
    y: torch.Tensor,
    reference: torch.Tensor,
    *,
    config: LinearConfig,
    magnitude: torch.Tensor,
) -> Comparison:
    """Compare an output with the reference.

    Args:
        y: [M, N] in ``config.out_dtype``, from the kernel under test.
        reference: fp64 [M, N] from `linear_exact`; or an output of `linear`, whose own rounding
            is then allowed for by another half ulp.
        config: Says formats, accumulation and K.
        magnitude: fp64 [M, N] from `linear_magnitude`.

    Raises:
        ShapeError: The shapes differ.
    """
    if not y.shape == reference.shape == magnitude.shape:
        raise ShapeError(
            "outputs to compare differ in shape",
            facts={
                "y": list(y.shape),
                "reference": list(reference.shape),
                "magnitude": list(magnitude.shape),
            },
        )
    out_dtype = DTYPES[config.out_dtype]
    half_ulps = 0.5 if reference.dtype == torch.float64 else 1.0
    got, want = y.to(torch.float64), reference.to(torch.float64)
    slack = accumulation_gamma(config) * magnitude + _bias_slack(want, magnitude)
    step = ulp(want.abs() + slack, out_dtype)
    allowed = half_ulps * step + slack
    distance = (got - want).abs()
    bad = ~((distance <= allowed) | _same_class(got, want, allowed, out_dtype))
    rel_error, tolerance = _frobenius(got, want, allowed)
    first = None
    if bool(bad.any()):
        row, column = (int(i) for i in bad.nonzero()[0])
        at = (row, column)
        first = Bad(at, float(got[at]), float(want[at]), float(step[at]), float(allowed[at]))
    ratio = torch.where(torch.isfinite(distance), distance / allowed, 0.0)
    worst = float(ratio.max()) if ratio.numel() else 0.0
    ok = first is None and rel_error <= tolerance
    return Comparison(ok, rel_error, tolerance, worst, first)


def ulp(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Give the spacing of a format at fp64 values, as fp64; never below that of subnormals."""
    mantissa, least = _FORMS[dtype]
    _, exponent = torch.frexp(value)  # value = f · 2^exponent, f in [½, 1)
    exponent = torch.where(value == 0, least, (exponent - 1).clamp(min=least))
    return torch.ldexp(torch.ones_like(value), exponent - mantissa)


def _bias_slack(want: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """Allow for alpha, scales and bias being applied in fp32, with a rounding each."""
    return 4 * 2.0**-24 * (want.abs() + 2 * magnitude)


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


def _frobenius(
    got: torch.Tensor, want: torch.Tensor, allowed: torch.Tensor
) -> tuple[float, float]:
    """Give the relative Frobenius error and its bound: errors of random sign, half as large."""
    finite = torch.isfinite(got) & torch.isfinite(want)
    if not bool(finite.any()):
        return 0.0, 0.0
    error, size = (got - want)[finite].norm(), want[finite].norm()
    bound = allowed[finite].norm()
    if float(size) == 0.0:
        return float(error), float(bound)
    return float(error / size), float(bound / size)
