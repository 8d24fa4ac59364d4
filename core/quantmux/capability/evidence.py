"""How far a kernel has been proved."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final


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


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one kernel on one device.

    Attributes:
        level: How far it has been proved.
        stale: The proof is of other sources or versions than those here.
        cases: Cases that were run.
        worst_error: Greatest relative error of them, None when none was run.
        date: Day of the run, ISO 8601, None when none was run.
        why_stale: What has changed since, one line, "" when nothing has.
        driver: Driver version of the run.
        versions: Package → version of the run.
    """

    level: EvidenceLevel = EvidenceLevel.DECLARED
    stale: bool = False
    cases: int = 0
    worst_error: float | None = None
    date: str | None = None
    why_stale: str = ""
    driver: str | None = None
    versions: tuple[tuple[str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Give the evidence as JSON-ready data."""
        return {
            "level": str(self.level),
            "stale": self.stale,
            "cases": self.cases,
            "worst_error": self.worst_error,
            "date": self.date,
            "why_stale": self.why_stale,
            "driver": self.driver,
            "versions": dict(self.versions),
        }


DECLARED: Final = Evidence()
"""Nothing but the kernel's own word."""
