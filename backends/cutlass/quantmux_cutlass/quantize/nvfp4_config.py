"""How many blocks of 16 a thread of the NVFP4 quantizer takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux_cutlass.linear.choice import Choice
from quantmux_cutlass.quantize.units import NVFP4

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config.layers import ProducerConfig


def choose(config: ProducerConfig, device: DeviceProfile, m: int) -> Choice:
    """Give the library and its options: blocks of a thread for few rows and for many; 0: its own.

    The library itself tells few rows from many, by the blocks of the whole matrix, so that one plan
    serves every M.

    Args:
        config: What is made.
        device: Where.
        m: Rows; looked at by the library.
    """
    del config, device, m
    return Choice(NVFP4, (0, 0))
