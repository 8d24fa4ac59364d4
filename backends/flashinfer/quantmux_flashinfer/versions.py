"""What compiled the modules that a kernel loads: evidence names it, and holds for it only."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantmux_flashinfer.entries import Entry


def compiled_by(entry: Entry) -> dict[str, str]:
    """Give the version of nvcc; {} where none is here, or nothing is compiled."""
    del entry
    return {}
