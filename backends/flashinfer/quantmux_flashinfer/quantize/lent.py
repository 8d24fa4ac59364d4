"""Scales that results hold and do not own: a caller's, or the one of a config.

Copying four bytes costs a launch, as much as some of the kernels before it. So a given scale is
passed on as it is, as a given global scale may be, and a scale that the config knows is one tensor
for all results. Whoever passes such a result on as ``out`` of another call would have that call's
scale written over it: that is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary, ref

from quantmux.errors import InputError

if TYPE_CHECKING:
    import torch

_LENT: Final[WeakValueDictionary[int, torch.Tensor]] = WeakValueDictionary()


def lend(scale: torch.Tensor) -> ref[torch.Tensor]:
    """Remember that a scale is not the own one of results that hold it; gives a weak reference."""
    _LENT[scale.data_ptr()] = scale
    return ref(scale)


def nobody() -> None:
    """Stand for a weak reference before there is any."""


def write_scale(held: torch.Tensor, scale: torch.Tensor) -> None:
    """Write a scale into a caller's output; nothing where it is that very memory.

    Raises:
        InputError: The output holds a scale that another call was given, or that of a config.
    """
    address = held.data_ptr()
    if address == scale.data_ptr():
        return
    if address in _LENT:
        raise InputError(
            "out holds the scale of another call, which would be overwritten",
            hint="give out a scale tensor of its own, fp32 [1], or the very one that is given",
            code="out",
        )
    held.copy_(scale)
