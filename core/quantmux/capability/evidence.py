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
        refused: Cases refused with the declared reason.
        failed: Cases that neither agreed nor were refused: evidence *against* the kernel, whose
            level is then ``declared``.
        archs: Architectures it was compiled for, in a run without the device.
        note: One line of the run, e.g. the first failure.
    """

    level: EvidenceLevel = EvidenceLevel.DECLARED
    stale: bool = False
    cases: int = 0
    worst_error: float | None = None
    date: str | None = None
    why_stale: str = ""
    driver: str | None = None
    versions: tuple[tuple[str, str], ...] = ()
    refused: int = 0
    failed: int = 0
    archs: tuple[str, ...] = ()
    note: str = ""

    @property
    def total(self) -> int:
        """Cases of the run, however they came out."""
        return self.cases + self.refused + self.failed

    @property
    def mark(self) -> str:
        """The one word for it: ``failed``, ``stale``, or the level."""
        if self.failed:
            return "failed"
        return "stale" if self.stale else str(self.level)

    @property
    def text(self) -> str:
        """Give it for a table: ``verified, 40 cases``, ``failed 3 of 40``, with ``stale``."""
        if self.failed:
            text = f"failed {self.failed} of {self.total}"
        else:
            text = str(self.level)
            if self.cases:
                text += f", {self.cases} cases"
        return text + (", stale" if self.stale else "")

    def holds(self, level: EvidenceLevel) -> bool:
        """Tell whether it reaches a level and is not stale."""
        return not self.stale and self.level.reaches(level)

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
            "refused": self.refused,
            "failed": self.failed,
            "archs": list(self.archs),
            "note": self.note,
        }


DECLARED: Final = Evidence()
"""Nothing but the kernel's own word."""
