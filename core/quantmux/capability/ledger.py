"""The evidence ledger's rows: what was run of one kernel on one device, with which sources.

A file ``<device>.json`` is ``{"schema": 1, "device", "rows": [...]}``; keys may grow, not shrink.
"""

from __future__ import annotations

from typing import Final

from pydantic import ConfigDict, Field

from quantmux.capability.evidence import EvidenceLevel
from quantmux.config._base import Frozen

SCHEMA: Final = 1
"""Number of this file format; a file of a greater one is not read."""


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


class EvidenceFile(Frozen):
    """The content of one ``<device>.json``.

    Attributes:
        schema_number: Number of the file format, ``schema`` in the file.
        device: Name of the device.
        rows: One per kernel.
    """

    model_config = ConfigDict(extra="ignore")

    schema_number: int = Field(default=SCHEMA, alias="schema")
    device: str
    rows: tuple[EvidenceRow, ...] = ()
