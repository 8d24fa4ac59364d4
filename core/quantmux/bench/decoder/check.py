"""Correctness before speed: a step that disagrees is not timed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

QUANTIZED_BOUND: Final = 0.05
"""Relative distance of a quantized step from the step in the reference's numbers, at most.

Both quantize the same; but sums are rounded in another order, so a few values of x fall on the
other side of a code's border (about one in 50, each a step of 1/16 to 1/8 off) in every layer."""

BF16_BOUND: Final = 0.15
"""The same for the step in bf16 on the same weights: what quantizing the activations costs."""


@dataclass(frozen=True, slots=True)
class Distance:
    """How far one step's result is from another's.

    Attributes:
        value: Frobenius norm of the difference over that of what the layers added to x. The
            residual stream itself is left out: it is the same whatever the layers do.
        bound: The most that is allowed; 0 asks for equal bits.
        of: What was compared.
    """

    value: float
    bound: float
    of: str

    @property
    def ok(self) -> bool:
        """Tell whether it is within its bound; NaN is not."""
        return self.value <= self.bound

    def __str__(self) -> str:
        if self.bound == 0:
            how = "equal bits" if self.ok else f"{self.value:.2g} off, equal bits are needed"
            return f"{self.of}: {how}"
        return f"{self.of}: {self.value:.2g} off, {self.bound:g} allowed"


def distance(
    found: torch.Tensor, want: torch.Tensor, x: torch.Tensor, *, bound: float, of: str
) -> Distance:
    """Compare two results [M, hidden] of steps from the same x [M, hidden].

    Args:
        found: What is judged.
        want: What it is judged by.
        x: The residual stream that both began with.
        bound: See `Distance`.
        of: Says in a few words what is compared.
    """
    if found.shape != want.shape:
        return Distance(float("nan"), bound, of)
    if bound == 0 and torch.equal(found.view(torch.uint8), want.view(torch.uint8)):
        return Distance(0.0, bound, of)
    added = (want.float() - x.float()).norm()
    apart = float((found.float() - want.float()).norm() / added)
    if bound == 0 and apart == 0:
        apart = float("nan")  # zeros of another sign, or NaN where NaN was
    return Distance(apart, bound, of)
