"""What the hosts of the SiLU·mul kernels decide alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux_triton.interpreter import interpreting

if TYPE_CHECKING:
    from quantmux.capability.arch import Arch


def has_fast_silu(arch: Arch) -> bool:
    """Tell whether the device function may use NVIDIA's instructions for 2^x and 1/x."""
    return not interpreting() and arch.sm is not None
