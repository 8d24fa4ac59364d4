"""What the specs of NVFP4 linears share: the operand, the order among themselves, the sources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.capability.capability import OperandOffer
from quantmux.config.formats import ElementFormat
from quantmux.config.operands import Block

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig
    from quantmux.registry.kernel_spec import Estimate

NVFP4: Final = OperandOffer(
    element=ElementFormat.FP4_E2M1,
    block=Block(rows=1, cols=16),
    scale_type="e4m3",
    scale_modes=("dynamic", "static"),
    global_scales=("dynamic", "static"),
    layouts=("row_major",),
)
"""The weight, as checkpoints have it."""

REL_TOLERANCE: Final = 0.005
"""Bound on the relative error. Nothing of it was measured: no Blackwell GPU was at hand. It leaves
room for an accumulator that drops bits below 2^-10 of the sum beside the rounding to bf16 (0.0017),
and none for a wrong scale of one block of 16 in a row of a few hundred, or for zeros."""

SOURCES: Final = (
    "linear/dry_run.py",
    "linear/nvfp4_entries.py",
    "linear/nvfp4_weights.py",
    "linear/outputs.py",
)
"""Beside those that every kernel of the backend runs through (`catalog`)."""

UNPROVED: Final = frozenset({"experimental"})
"""Nothing here was ever run: it goes behind every kernel that was (docs/decisions/0015)."""


def in_order(backend: str, places: Mapping[int, tuple[str, ...]]) -> Estimate:
    """Give an estimate that says which back end goes first on which family, and no time.

    Args:
        backend: The back end it is for.
        places: Major compute capability → back ends, the first first.
    """

    def place(config: LayerConfig, device: DeviceProfile, m: int) -> float:
        del config, m
        order = places.get((device.arch.sm or 0) // 10, ())
        return float(order.index(backend) if backend in order else len(order))

    return place
