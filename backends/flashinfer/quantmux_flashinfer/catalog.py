"""What this backend offers: every kernel with what it calls of FlashInfer. Imports neither."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
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

PACKAGE: Final = Path(__file__).parent

_ALONE: Final = ("availability.py", "cubins.py", "entries.py")
_SHARED: Final = ("jit", "layouts", "library", "surface")
_NOT_RUN: Final = frozenset({"jit/library_units.py", "surface/record.py", "surface/records.py"})
"""Files of those folders that no kernel runs through."""


@cache
def offers() -> tuple[Offer, ...]:
    """Give every kernel, in the order of `ROOMS`."""
    found: list[Offer] = []
    for room in ROOMS:
        module: Any = importlib.import_module(f"{__package__}.{room}")
        found += module.offers()
    return tuple(found)


@cache
def functions() -> frozenset[str]:
    """Give every function of FlashInfer that a kernel calls, as ``module:name``."""
    return frozenset(offer.entry.function for offer in offers())


@cache
def shared_sources() -> tuple[str, ...]:
    """Give the files that every kernel here runs through: what finds, checks and opens the library.

    They decide what is called and with what, so they belong to the digest of each.
    """
    files = (file for folder in _SHARED for file in (PACKAGE / folder).glob("*.py"))
    names = {file.relative_to(PACKAGE).as_posix() for file in files}
    names = {name for name in names if not name.endswith("/__init__.py")} - _NOT_RUN
    return tuple(sorted((*_ALONE, *names)))
