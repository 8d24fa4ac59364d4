"""What the RoPE kernel refuses that its capability cannot say. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.config import RopeQuantizeConfig

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig

VECTOR: Final = 16
"""Elements that a thread rotates and stores at once."""

_GRID_ROWS: Final = 65535
"""Blocks that CUDA allows in the second direction."""


def veto(config: LayerConfig, device: DeviceProfile) -> Rejection | None:
    """Refuse what the library would read or write beside.

    - The scale is a number of its launch: it must be known when the kernel is bound.
    - A thread takes 16 columns of a head, aligned; of half-and-half pairs it takes 16 cosines from
      within a half, and would take sines for cosines where a half is no multiple of 16.
    - Of interleaved pairs it takes 8 of each, which end with the row: its source asks for 16, and
      the compiler drops those that nobody uses (PTX for sm_90a, nvcc 13.0, 2026-11-21).
    - A block for every head and every part of it that is not rotated.
    """
    del device
    if not isinstance(config, RopeQuantizeConfig):
        return None
    if config.static_scale is None:
        return Rejection(
            RejectionCode.VETO,
            "static_scale",
            "a scale in the config",
            "one that comes with the call",
            "static_scale=<the number> in the config",
        )
    step = VECTOR if config.interleaved else 2 * VECTOR
    if config.rope_dim % step:
        return _multiple("rope_dim", step, config.rope_dim)
    if config.head_dim % VECTOR:
        return _multiple("head_dim", VECTOR, config.head_dim)
    plain = config.head_dim - config.rope_dim
    blocks = config.heads * (1 + -(-plain // config.rope_dim))
    if blocks > _GRID_ROWS:
        return Rejection(RejectionCode.VETO, "heads", f"at most {_GRID_ROWS} blocks", f"{blocks}")
    return None


def _multiple(field: str, step: int, found: int) -> Rejection:
    return Rejection(RejectionCode.ALIGN_K, field, f"a multiple of {step}", str(found))
