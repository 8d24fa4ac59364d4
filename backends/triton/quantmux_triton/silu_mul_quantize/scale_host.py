"""Whether `scale_of_constant` may do without a division: decided on the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux_triton.interpreter import interpreting

if TYPE_CHECKING:
    from quantmux.capability.arch import Arch
    from quantmux.config import Operand

_LEAST_AMAX: Final = 2.0**-100
"""Where the residual of a quotient still is a normal number, with room."""


def scales_multiplied(operand: Operand, arch: Arch) -> bool:
    """Tell whether a scale may be made without a division; see ``scale_kernel.py``."""
    return not interpreting() and arch.sm is not None and operand.eps >= _LEAST_AMAX
