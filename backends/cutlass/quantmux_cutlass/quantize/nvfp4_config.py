"""Which library the NVFP4 quantizers need: always the one, with its own choice of tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux_cutlass.linear.choice import Choice
from quantmux_cutlass.quantize.units import NVFP4

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config.layers import ProducerConfig


def choose(config: ProducerConfig, device: DeviceProfile, m: int) -> Choice:
    """Give the library and its options, all of them its own choice.

    The library itself tells few rows from many, by the blocks of the whole matrix, so that one plan
    serves every M; ``csrc/quantize/nvfp4_call.cuh`` has the measurements.

    Args:
        config: What is made.
        device: Where.
        m: Rows.
    """
    del config, device, m
    return Choice(NVFP4, (0, 0))
