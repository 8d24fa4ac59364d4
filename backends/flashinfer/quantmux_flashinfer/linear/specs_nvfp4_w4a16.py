"""Specs of this room's kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantmux_flashinfer.entries import Offer


def offers() -> tuple[Offer, ...]:
    """Give the kernels."""
    return ()
