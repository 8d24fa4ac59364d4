"""Tier: how a kernel relates to the scheme that was asked. A relation, not a property."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Tier(StrEnum):
    """native > emulated > weight_only > reference; a lower tier never shadows a higher one."""

    NATIVE = "native"
    EMULATED = "emulated"
    WEIGHT_ONLY = "weight_only"
    REFERENCE = "reference"

    @property
    def rank(self) -> int:
        """Position in the order, native = 0."""
        return _ORDER[self]


_ORDER: Final = {tier: rank for rank, tier in enumerate(Tier)}
