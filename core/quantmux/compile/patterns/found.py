"""What a recognizer answers: a pattern, a near miss with its reason, or None."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from quantmux.config.formats import Dtype


@dataclass(frozen=True, slots=True)
class NearMiss:
    """Almost a pattern.

    Attributes:
        pattern: ``silu_mul`` or ``rmsnorm``.
        reason: What differs, as a sentence without a full stop.
    """

    pattern: str
    reason: str

    def __str__(self) -> str:
        return f"{self.pattern}: {self.reason}"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Pattern:
    """What all patterns have.

    Attributes:
        n: Width of the result, its last dim.
        in_dtype: Format of the input.
        out_dtype: Format of the result, that is of what is quantized.
        roundings: Which values on the way are rounded to ``in_dtype`` though fp32 would keep them,
            such as ``silu``; a fused producer does not round them. The rounding of the result
            itself is not listed; it follows from ``out_dtype``.
        interior: Nodes between the input and the result, neither included, in graph order.
        escapes: Those of the interior whose value is read elsewhere too, views left out: they stay
            in the graph and are computed all the same.
    """

    n: int
    in_dtype: Dtype
    out_dtype: Dtype
    roundings: tuple[str, ...]
    interior: tuple[torch.fx.Node, ...]
    escapes: tuple[torch.fx.Node, ...]

    @property
    def rounds(self) -> bool:
        """Whether a value on the way is rounded to 16 bit."""
        return bool(self.roundings)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SiluMul(Pattern):
    """``silu(gate) · up``.

    Attributes:
        source: [..., 2n], whose halves gate and up are; None where they are two tensors. Its rows,
            in their order, are those of the result, whatever the leading dims of either.
        gate: [..., n]; None with a source.
        up: [..., n]; None with a source.
        gate_first: The gate is columns 0..n of the source, else n..2n.
    """

    source: torch.fx.Node | None
    gate: torch.fx.Node | None
    up: torch.fx.Node | None
    gate_first: bool = True


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RmsNorm(Pattern):
    """``x / sqrt(mean(x²) + eps) · weight`` over the last dim.

    Attributes:
        source: x [..., n]; where a residual is added before, the sum. Its rows, in their order,
            are those of the result.
        weight: [n]; None for a norm without one.
        eps: Added to the mean of squares.
        fp32_weight: The weight is fp32, though x is not.
    """

    source: torch.fx.Node
    weight: torch.fx.Node | None
    eps: float
    fp32_weight: bool


__all__ = ["NearMiss", "Pattern", "RmsNorm", "SiluMul"]
