"""What a kernel's config module answers: which library serves M rows, and with which options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux_cutlass.units import Unit

    Choose = Callable[[LinearConfig, DeviceProfile, int], "Choice"]

M_SAMPLES: Final = (
    *(1, 2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512),
    *(640, 768, 1024, 1280, 1536, 2048, 2560, 3072, 4096, 6144, 8192, 12288, 16384, 32768),
)
"""Ms for which ``choose`` is asked when a layer is bound: the units it names are opened then."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One library and the options that ``qm_plan`` is given.

    Attributes:
        unit: What the library is compiled from.
        options: ``QmProblem.option``, at most seven; the rest is 0.
        pdl: It may start while the kernel before it ends (docs/decisions/0010); False where that
            was measured to cost more than it saves.
    """

    unit: Unit
    options: tuple[int, ...] = ()
    pdl: bool = True
