"""How far a linear's output may be from the reference, and where it is too far.

Every element: ``|y - r| <= ½ ulp_out(r) + accumulation slack``, r in fp64 before rounding; the
whole, by its relative Frobenius error; and what all elements have in common, by the drift of y
along r. README.md of this folder derives the slack and lists what was measured on an H200.
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

_Factors = tuple[float, float]

_COHERENT: Final[_Factors] = (0.4, 0.3)
"""Factors of the losses that add up: of one element, and root mean square (measured: 0.25)."""

_WALK: Final[_Factors] = (2.0, 0.25)
"""Factors of the losses that cancel, likewise."""

_COHERENT_PROMOTED: Final[_Factors] = (0.2, 0.12)
"""Where many promotions average, less adds up (measured: 0.07) …"""

_WALK_PROMOTED: Final[_Factors] = (4.0, 0.6)
"""… but losses that would have cancelled over all of K may add up within a promotion."""

_STAGNATION: Final = 0.75
"""Largest share of a sum that stagnation may cost: 0.67 was measured at K = 32768, all equal."""

_MIXED: Final = 0.25
"""Least share of the walk that is allowed, though products of one sign do not cancel at all."""

_ROUNDING_SIGMAS: Final = 3.0
"""Half ulps that independent roundings may add up to, per root of their number: 5.2 sigma."""

_PHASES: Final = 1024
"""Positions within an ulp that count as different, so that their roundings are independent."""


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
        drift: What y has too much, as a share of the sum: ``<y - r, s> / <s, s>``, s = r - bias.
        drift_allowed: Least and largest ``drift`` that pass.
    """

    ok: bool
    rel_error: float
    tolerance: float
    worst: float
    first_bad: Bad | None
    drift: float = 0.0
    drift_allowed: tuple[float, float] = (0.0, 0.0)

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
        low, high = self.drift_allowed
        if not low <= self.drift <= high:
            facts["drift"] = f"{self.drift:+.3g} of the sum, from {low:+.3g} to {high:+.3g}"
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
    inward, outward = short.of_element(magnitude.total)
    slack = full + torch.where((got - want) * short.sign > 0, outward, inward)
    step = ulp(want.abs() + slack, out_dtype)
    allowed = half_ulps * step + slack
    distance = (got - want).abs()
    bad = ~((distance <= allowed) | _same_class(got, want, allowed, out_dtype))
    bad |= _vanished(got, want, magnitude, out_dtype)
    finite = torch.isfinite(got) & torch.isfinite(want)
    rel_error = _relative(got - want, want, finite)
    spared_in, spared_out = short.of_whole(magnitude.total)
    full = torch.minimum(full, _full_walk(want, short.sum, magnitude, config))
    rounding = half_ulps * step
    tolerance = _relative(rounding + full + spared_in, want, finite)
    drift = _drift(got - want, short.sum, finite)
    rounded = _common_rounding(rounding, want / step, short.sum, finite)
    low = -rounded - _drift(full + spared_in, short.sum.abs(), finite)
    high = rounded + _drift(full + spared_out, short.sum.abs(), finite)
    first = None
    if bool(bad.any()):
        row, column = (int(i) for i in bad.nonzero()[0])
        at = (row, column)
        first = Bad(at, float(got[at]), float(want[at]), float(step[at]), float(allowed[at]))
    ratio = torch.where(finite, distance / allowed, 0.0)
    worst = float(ratio.max()) if ratio.numel() else 0.0
    ok = first is None and rel_error <= tolerance and low <= drift <= high
    return Comparison(ok, rel_error, tolerance, worst, first, drift, (low, high))


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


def _full_steps(config: LinearConfig) -> int:
    """Give how often an fp32 accumulator truncates; sums of integers are exact."""
    return 0 if config.scheme.weight.element == "int8" else -(-config.k // 16)


def _full_slack(want: torch.Tensor, magnitude: Magnitude, config: LinearConfig) -> torch.Tensor:
    """Allow for an fp32 accumulator that truncates, and for alpha, scales and bias in fp32."""
    return _FP32 * ((_full_steps(config) + 4) * magnitude.total + 2 * want.abs())


def _full_walk(
    want: torch.Tensor, sum_: torch.Tensor, magnitude: Magnitude, config: LinearConfig
) -> torch.Tensor:
    """Give the same as a root mean square: only losses that lead towards 0 all add up."""
    steps = _full_steps(config)
    walk = (2 * math.sqrt(steps) + 4) * magnitude.total
    return _FP32 * (steps * sum_.abs() + walk + 2 * want.abs())


@dataclass(frozen=True, slots=True, eq=False)
class _Short:
    """What a short accumulator loses, per output element [M, N]; see `_short_slack`.

    Attributes:
        sum: The sum of the products, signed.
        coherent: Losses that add up, towards 0, were each a whole unit.
        walk: Losses that cancel as a random walk does.
        aligned: ``|Σ| / Σ|·|``, 1 for products of one sign.
        lone: ``√Σ·² / Σ|·|``, 1 where one product is all there is.
        coherent_by: Factors of ``coherent``.
        walk_by: Factors of ``walk``.
    """

    sum: torch.Tensor
    coherent: torch.Tensor
    walk: torch.Tensor
    aligned: torch.Tensor
    lone: torch.Tensor
    coherent_by: _Factors
    walk_by: _Factors

    @property
    def sign(self) -> torch.Tensor:
        """Sign of the sum: the direction that leads away from 0."""
        return torch.sign(self.sum)

    def of_element(self, total: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Give what one element may lose towards 0, and gain away from it."""
        return self._bounds(total, self.coherent_by[0], self.walk_by[0])

    def of_whole(self, total: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the same for the root mean square."""
        return self._bounds(total, self.coherent_by[1], self.walk_by[1])

    def _bounds(
        self, total: torch.Tensor, coherent: float, walk: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        lost = torch.minimum(coherent * self.coherent, _STAGNATION * self.sum.abs())
        mixed = (1.0 - self.aligned.square()).clamp(min=0.0).sqrt().clamp(min=_MIXED)
        # where one product dwarfs the others, the sum's sign is its own and tells nothing of theirs
        mixed = torch.maximum(mixed, self.lone)
        outward = walk * mixed * self.walk
        return torch.minimum(lost + outward, total), torch.minimum(outward, total)


def _short_slack(want: torch.Tensor, magnitude: Magnitude, config: LinearConfig) -> _Short:
    """Give the error that a short accumulator is expected to make, 0 where none is allowed.

    Of the ``steps`` products that are added before a promotion, each loses up to a unit of the
    accumulator. Losses have the sign of their product: ``steps · |Σ| / Σ|·|`` of them add up, the
    others cancel as a random walk does. The accumulator is as large as the sum, or as a random
    walk on the way.
    """
    total = magnitude.total
    sum_ = want if magnitude.bias is None else want - magnitude.bias
    if not _is_short(config.scheme):
        none = torch.zeros_like(total)
        return _Short(sum_, none, none, none, none, _COHERENT, _WALK)
    fast = config.scheme.accumulation == "fast"
    steps = config.k if fast else min(config.k, _PROMOTION)
    sum_ = torch.minimum(torch.maximum(sum_, -total), total)
    aligned = torch.where(total > 0, sum_.abs() / total, 0.0)
    lone = torch.where(total > 0, magnitude.spread / total, 0.0)
    units = _SHORT * (sum_.abs() + magnitude.spread)
    coherent, walk = steps * aligned * units, math.sqrt(steps) * units
    if steps == config.k:
        return _Short(sum_, coherent, walk, aligned, lone, _COHERENT, _WALK)
    return _Short(sum_, coherent, walk, aligned, lone, _COHERENT_PROMOTED, _WALK_PROMOTED)


def _vanished(
    got: torch.Tensor, want: torch.Tensor, magnitude: Magnitude, dtype: torch.dtype
) -> torch.Tensor:
    """Tell where y is 0 though r is too large for any accumulator to have lost it."""
    lost = (got == 0) & (want.abs() > 0.5 * magnitude.total)
    return lost & (round_once(want, dtype) != 0)


def _drift(error: torch.Tensor, along: torch.Tensor, finite: torch.Tensor) -> float:
    """Give ``<error, along> / <along, along>`` over the finite elements; 0 where along is 0."""
    size = float(along[finite].norm())
    return float((error[finite] / size * (along[finite] / size)).sum()) if size > 0.0 else 0.0


def _common_rounding(
    rounding: torch.Tensor, position: torch.Tensor, along: torch.Tensor, finite: torch.Tensor
) -> float:
    """Give the drift that rounding y to its format may cause.

    Elements at one position within their ulp are rounded alike; roundings at different positions
    are independent, so that they grow as the root of their number only.

    Args:
        rounding: Largest rounding error of each element.
        position: r in units of its ulp.
        along: As for `_drift`.
        finite: The elements that count.
    """
    size = float(along[finite].norm())
    if size == 0.0:
        return 0.0
    weight = rounding[finite] / size * (along[finite].abs() / size)
    phase = ((position[finite] % 1.0) * _PHASES).long().clamp(0, _PHASES - 1)
    alike = torch.zeros(_PHASES, dtype=weight.dtype, device=weight.device)
    alike.index_add_(0, phase, weight)
    return min(float(alike.sum()), _ROUNDING_SIGMAS * float(alike.norm()))


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
