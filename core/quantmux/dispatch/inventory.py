"""Inventory: everything selection may know besides config and settings, gathered once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quantmux.capability.evidence import DECLARED, Evidence, EvidenceLevel
from quantmux.dispatch.tuning import TuningTable

if TYPE_CHECKING:
    from quantmux.capability.rejection import Rejection
    from quantmux.registry.kernel_spec import KernelSpec


@dataclass(frozen=True, slots=True)
class Inventory:
    """The kernels and what is known of them on one device.

    Attributes:
        kernels: Every registered kernel.
        blocked: Per kernel id, rejections that no config changes: packages, tools, quarantine.
        assumptions: What was assumed present because the device is only a named profile.
        evidence: What is known per kernel id; ``declared`` when absent.
        tuning: Measured times.
        evidence_problems: Evidence files and rows that do not count and why, one line each.
        tuning_problems: The same for files of measured times.
    """

    kernels: tuple[KernelSpec, ...]
    blocked: Mapping[str, tuple[Rejection, ...]] = field(default_factory=dict)
    assumptions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    evidence: Mapping[str, Evidence] = field(default_factory=dict)
    tuning: TuningTable = field(default_factory=TuningTable)
    evidence_problems: tuple[str, ...] = ()
    tuning_problems: tuple[str, ...] = ()

    def of_op(self, op: str) -> tuple[KernelSpec, ...]:
        """Give the kernels of one op in the order of registration."""
        return tuple(k for k in self.kernels if k.op == op)

    def proof(self, kernel_id: str) -> Evidence:
        """Give what is known of a kernel on the device."""
        return self.evidence.get(kernel_id, DECLARED)

    def level(self, kernel_id: str) -> EvidenceLevel:
        """Give the evidence level that counts: stale evidence counts as ``declared``."""
        proof = self.proof(kernel_id)
        return EvidenceLevel.DECLARED if proof.stale else proof.level
