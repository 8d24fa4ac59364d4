"""How far a kernel has been proved."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class EvidenceLevel(StrEnum):
    """declared < compiled < verified < measured; each includes the ones before it."""

    DECLARED = "declared"
    COMPILED = "compiled"
    VERIFIED = "verified"
    MEASURED = "measured"

    @property
    def rank(self) -> int:
        """Position in the order, declared = 0."""
        return _ORDER.index(self)

    def reaches(self, required: EvidenceLevel) -> bool:
        """Tell whether this level is at least ``required``."""
        return self.rank >= required.rank


_ORDER: Final = (
    EvidenceLevel.DECLARED,
    EvidenceLevel.COMPILED,
    EvidenceLevel.VERIFIED,
    EvidenceLevel.MEASURED,
)
