"""Correctness before speed: a step that disagrees is not timed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch

NOISE_TIMES: Final = 1.25
"""A quantized step may be so many times as far off as the reference's own.

It cannot be compared with the reference's result: an intermediate that another order of sums, or a
compiler, rounds otherwise puts other values of x on the other side of a code's border, and after a
few layers two steps that are both right are as far apart as either is from a step without
quantized activations (tiny decoder on a CPU, 2026-11-21: 0.054 and 0.055). So each is held against
that step, and must not be farther off than the format itself is."""

ROUNDED: Final = 0.02
"""How far rounding to bf16 between the layers takes a step at most; on top of the noise."""


@dataclass(frozen=True, slots=True)
class Judge:
    """What the results of one case are held against.

    Attributes:
        x: The residual stream that all begin with, bf16 [M, hidden].
        exact: Result of the step on dequantized weights in fp32, activations not quantized.
        noise: How far the step in the reference's numbers is from it: what the format costs.
    """

    x: torch.Tensor
    exact: torch.Tensor
    noise: float

    @classmethod
    def of(cls, x: torch.Tensor, exact: torch.Tensor, reference: torch.Tensor) -> Judge:
        """Give the judge of a case by the result of the reference's step on it."""
        noise = distance(reference, exact, x, bound=math.inf, of="the reference")
        return cls(x, exact, noise.value)

    def compare(self, y: torch.Tensor, of: str, *, quantized: bool = True) -> Distance:
        """Tell how far a step's result is off, and whether that is what its numbers cost."""
        bound = ROUNDED + (NOISE_TIMES * self.noise if quantized else 0.0)
        return distance(y, self.exact, self.x, bound=bound, of=of)

    def same(self, y: torch.Tensor, want: torch.Tensor, of: str) -> Distance:
        """Tell whether two results are equal bit by bit."""
        return distance(y, want, self.x, bound=0, of=of)


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
        return f"{self.of}: {self.value:.2g} off, {self.bound:.2g} allowed"


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
