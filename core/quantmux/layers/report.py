"""QuantizeReport: which linears of a model were swapped, and why the others were not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Swapped:
    """One linear that was swapped: every name it has in the model, scheme, kernels, tier."""

    names: tuple[str, ...]
    scheme: str
    kernel: str
    tier: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """One linear that was left as it is, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class QuantizeReport:
    """What `quantize_` did.

    Attributes:
        swapped: Linears that were swapped; one module under several names is one entry.
        skipped: Linears that were not, with the reason.
        unmatched: Patterns of ``exclude`` that fit no linear.
    """

    swapped: tuple[Swapped, ...]
    skipped: tuple[Skipped, ...]
    unmatched: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Give the report as JSON-ready data."""
        data = asdict(self)
        return {name: list(value) for name, value in data.items()}

    def __str__(self) -> str:
        lines = [f"swapped {len(self.swapped)}, skipped {len(self.skipped)}"]
        lines += [
            f"  {' = '.join(s.names)}  {s.scheme}  {s.kernel}  [{s.tier}]" for s in self.swapped
        ]
        lines += [f"  {s.name}  skipped: {s.reason}" for s in self.skipped]
        lines += [f"  exclude {pattern!r} fits no linear" for pattern in self.unmatched]
        return "\n".join(lines)
