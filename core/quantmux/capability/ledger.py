"""The evidence ledger's rows: what was run of one kernel on one device, with which sources.

A file ``<device>.json`` is ``{"schema": 1, "device", "rows": [...]}``; keys may grow, not shrink.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import re
from typing import TYPE_CHECKING, Any, Final

from pydantic import ConfigDict, Field

from quantmux.capability.evidence import EvidenceLevel
from quantmux.config._base import Frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA: Final = 1
"""Number of this file format; a file of a greater one is not read."""

_DIGEST: Final = re.compile(r"^[0-9a-f]{16}$")


class EvidenceRow(Frozen):
    """What one run has shown of one kernel.

    Attributes:
        kernel: Kernel id.
        digest: `quantmux.registry.digest.kernel_digest` of what was run.
        level: What the run reached: ``compiled``, ``verified`` or ``measured``.
        cases: Cases that agreed with the reference.
        refused: Cases refused with the declared reason.
        failed: Cases that did neither; a row with any is evidence against the kernel, its level
            is ``declared``.
        worst_error: Greatest relative error of the cases that agreed, None when none was run.
        date: Day of the run, ISO 8601.
        driver: Driver version, None where there is none.
        versions: Package → version, those that the kernel's numbers depend on.
        archs: Architectures it was compiled for, in a run without the device.
        note: One line, e.g. the first failure.
        ran: The kernel itself was run; False when only a compiler was.
        seal: `seal_of` the row as it was written, "" before; shows that nobody edited it.
    """

    model_config = ConfigDict(extra="ignore")

    kernel: str
    digest: str
    level: EvidenceLevel
    cases: int = Field(default=0, ge=0)
    refused: int = Field(default=0, ge=0)
    failed: int = Field(default=0, ge=0)
    worst_error: float | None = None
    date: str = ""
    driver: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    archs: tuple[str, ...] = ()
    note: str = ""
    ran: bool = True
    seal: str = ""

    @property
    def total(self) -> int:
        """Cases of the run, however they came out."""
        return self.cases + self.refused + self.failed

    @property
    def problem(self) -> str:
        """What it says that no run can have shown, one line; "" when nothing."""
        if not _DIGEST.match(self.digest):
            return f"digest {self.digest!r} is no digest: 16 hex digits"
        if self.level.reaches(EvidenceLevel.VERIFIED) and not self.cases:
            return f"{self.level} with no case that agreed"
        if self.failed and self.level is not EvidenceLevel.DECLARED:
            return f"{self.level} with {self.failed} failed cases"
        error = self.worst_error
        if error is not None and not (math.isfinite(error) and error >= 0):
            return f"worst_error {error} is no error"
        return _date_problem(self.date)

    def sealed(self, device: str) -> dict[str, Any]:
        """Give the row as JSON-ready data with its seal, as it stands in the device's file."""
        data = self.model_dump(mode="json", exclude={"seal"})
        return {**data, "seal": seal_of(data, device)}


def seal_of(row: Mapping[str, Any], device: str) -> str:
    """Give 16 hex digits over a row's JSON and its device, whatever stands under ``seal``.

    Keys that this version does not know count too. It guards against edits made in good faith,
    not against forgers, who can seal as we do.
    """
    data = {key: value for key, value in row.items() if key != "seal"}
    text = json.dumps([device, data], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _date_problem(day: str) -> str:
    try:
        dt.date.fromisoformat(day)
    except ValueError:
        return f"date {day!r} is no day of ISO 8601"
    return ""
