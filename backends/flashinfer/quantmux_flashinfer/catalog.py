"""What this backend offers: every kernel with what it calls of FlashInfer. Imports neither."""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from quantmux_flashinfer.entries import Offer

ROOMS: Final = (
    "linear.specs_fp8",
    "linear.specs_fp8_block",
    "linear.specs_nvfp4",
    "linear.specs_nvfp4_w4a16",
    "quantize.specs",
    "silu_mul_quantize.specs",
    "rmsnorm_quantize.specs",
    "rope_quantize.specs",
    "relayout.specs",
)
"""Each has ``offers() -> tuple[Offer, ...]``."""


@cache
def offers() -> tuple[Offer, ...]:
    """Give every kernel, in the order of `ROOMS`."""
    found: list[Offer] = []
    for room in ROOMS:
        module: Any = importlib.import_module(f"{__package__}.{room}")
        found += module.offers()
    return tuple(found)
