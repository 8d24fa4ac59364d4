"""The nearest miss: the smallest change that would let a better kernel serve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from quantmux.capability.rejection import Rejection, RejectionCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantmux.dispatch.pipeline import Pipeline
    from quantmux.registry.kernel_spec import KernelSpec

_EFFORT: Final = {
    RejectionCode.DENIED: 1,
    RejectionCode.LOSSY: 1,
    RejectionCode.EVIDENCE: 1,
    RejectionCode.OUTPUT_STRIDE: 1,
    RejectionCode.ALIGN_N: 2,
    RejectionCode.ALIGN_K: 2,
    RejectionCode.PADDED_N: 2,
    RejectionCode.ACCUMULATION: 2,
    RejectionCode.NEEDS_PACKAGE: 3,
    RejectionCode.NEEDS_TOOL: 3,
    RejectionCode.NOT_BUILT: 3,
    RejectionCode.UNAVAILABLE: 3,
    RejectionCode.QUARANTINED: 3,
    RejectionCode.IN_DTYPE: 4,
    RejectionCode.OUT_DTYPE: 4,
    RejectionCode.BIAS: 5,
    RejectionCode.LAYOUT: 5,
    RejectionCode.PADDED_M: 5,
    RejectionCode.SCALE_UB: 5,
}
"""What a user can change, and how much it takes. Another GPU or another scheme is no near miss."""


@dataclass(frozen=True, slots=True)
class NearestMiss:
    """A better kernel and all that keeps it from serving."""

    kernel: str
    rejections: tuple[Rejection, ...]

    @property
    def text(self) -> str:
        """One sentence."""
        parts = []
        for r in self.rejections:
            change = r.hint or f"{r.field} must be {r.required}"
            parts.append(f"{r.field} = {r.actual}: {change}")
        return "; ".join(parts) + f" and {self.kernel} fits"

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON-ready data."""
        return {
            "kernel": self.kernel,
            "changes": [r.to_dict() for r in self.rejections],
            "text": self.text,
        }


def nearest_miss(
    kernels: tuple[KernelSpec, ...],
    rejected: Mapping[str, tuple[Rejection, ...]],
    winner: Pipeline | None,
    order: tuple[str, ...],
) -> NearestMiss | None:
    """Give the kernel that needs the least change among those that would rank before the winner."""
    place = {name: i for i, name in enumerate(order)}

    def rank(spec: KernelSpec) -> tuple[int, bool, bool, int]:
        c = spec.capability
        tier = 3 if c.is_reference else 1 if c.compute == "emulated" else 0
        return tier, c.is_approximate, c.is_experimental, place.get(spec.backend, len(place))

    limit = (4, True, True, 0)
    if winner is not None:
        *_, where = rank(winner.main)
        limit = (winner.tier.rank, winner.is_approximate, winner.is_experimental, where)
    best: tuple[tuple[int, int, tuple[int, bool, bool, int], str], NearestMiss] | None = None
    for spec in kernels:
        reasons = rejected.get(spec.id)
        if not reasons or rank(spec) >= limit or any(r.code not in _EFFORT for r in reasons):
            continue
        effort = sum(_EFFORT[r.code] for r in reasons)
        key = (effort, len(reasons), rank(spec), spec.id)
        if best is None or key < best[0]:
            best = (key, NearestMiss(spec.id, reasons))
    return best[1] if best else None
