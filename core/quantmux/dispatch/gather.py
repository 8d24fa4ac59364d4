"""Gather the inventory of one device: kernels, what blocks them, what proves them, their times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quantmux.capability.needs import needs_rejections
from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.dispatch.compiled import library_answers
from quantmux.dispatch.inventory import Inventory
from quantmux.dispatch.tuning import TuningRow, TuningTable
from quantmux.dispatch.tuning_files import read_tuning
from quantmux.registry.digest import kernel_digest
from quantmux.registry.folders import row_folders
from quantmux.registry.ledger import read_ledger
from quantmux.registry.ledger_versions import version_change

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from quantmux.capability.device import DeviceProfile
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.registry.manager import Registry


def gather(
    registry: Registry,
    device: DeviceProfile,
    *,
    installed_only: bool = False,
    quarantined: Mapping[str, Rejection] | None = None,
    user_folder: Path | None = None,
) -> Inventory:
    """Give everything selection may know of a device.

    For a device that is not here, packages, tools and compiled libraries are taken as present, the
    first two listed as assumptions; with ``installed_only`` this machine is asked instead, and what
    it would have to compile yet is listed.

    Args:
        registry: The plugins.
        device: The device, here or a named profile.
        installed_only: Ask this machine for packages and tools whatever the device.
        quarantined: Kernel id → its rejection.
        user_folder: The user's measured rows and evidence, read over those that plugins ship.
    """
    is_asked = installed_only or device.is_present or device.arch.vendor == "cpu"
    states = registry.probe(device) if is_asked else {}
    blocked: dict[str, tuple[Rejection, ...]] = {}
    assumptions: dict[str, tuple[str, ...]] = {}
    for spec in registry.kernels:
        needs = spec.capability.needs
        reasons: list[Rejection] = []
        if is_asked:
            reasons += needs_rejections(needs)
        elif needs:
            assumptions[spec.id] = tuple(f"{need} ({spec.backend})" for need in needs)
        state = states.get(spec.backend)
        if state is not None and state.state != "ok" and not reasons:
            reasons.append(_unavailable(spec.backend, state))
        if quarantined and spec.id in quarantined:
            reasons.append(quarantined[spec.id])
        if reasons:
            blocked[spec.id] = tuple(reasons)
    if installed_only and device.is_cuda and not device.is_present:
        away, missing = library_answers(registry, device)
        blocked |= {name: (*blocked.get(name, ()), why) for name, why in away.items()}
        assumptions |= {name: (*assumptions.get(name, ()), why) for name, why in missing.items()}
    ledger = read_ledger(registry, device, user_folder)
    is_here = device.is_present or device.arch.vendor == "cpu"
    tuning, tuning_problems = _tuning(registry, device, user_folder, is_here=is_here)
    return Inventory(
        kernels=registry.kernels,
        blocked=blocked,
        assumptions=assumptions,
        evidence=ledger.evidence,
        tuning=tuning,
        tuning_problems=tuning_problems,
        evidence_problems=ledger.problems,
    )


def _unavailable(backend: str, state: Any) -> Rejection:
    return Rejection(
        code=RejectionCode.UNAVAILABLE,
        field="backend",
        required=f"{backend} usable here",
        actual="; ".join(state.reasons) or state.state,
        hint=state.hint,
    )


def _tuning(
    registry: Registry, device: DeviceProfile, user: Path | None, *, is_here: bool
) -> tuple[TuningTable, tuple[str, ...]]:
    """Read ``tuning/<device>.json`` of every plugin, and the user's file over them.

    A plugin's file may speak of pipelines that end in a kernel of its own only. Rows taken with
    other sources, or another release of torch, Triton or a package that a kernel needs, are stale,
    as evidence is: a stale row of the user's hides none that a newer package ships.
    """
    rows: list[TuningRow] = []
    problems: list[str] = []
    for owners, folder in row_folders(registry, user):
        file = folder / "tuning" / f"{device.name}.json"
        content = read_tuning(file)
        problems += [f"{file}: {problem}" for problem in content.problems]
        for row in content.rows:
            if owners and row.pipeline[-1].partition("/")[0] not in owners:
                whose = " or ".join(sorted(owners))
                problems.append(f"{file}: {' -> '.join(row.pipeline)} does not end in {whose}")
            else:
                rows.append(row)
    if not rows:
        return TuningTable(), tuple(problems)
    specs = {spec.id: spec for spec in registry.kernels}
    digests = {
        spec.id: kernel_digest(spec, registry.folder(spec.backend)) for spec in specs.values()
    }
    current = [row for row in rows if not (is_here and _is_of_before(row, specs))]
    # of two rows of one key the table keeps the later, which is the user's
    table = TuningTable(current, digests)
    table.stale += len(rows) - len(current)
    return table, tuple(problems)


def _is_of_before(row: TuningRow, specs: Mapping[str, KernelSpec]) -> bool:
    known = [specs[name] for name in row.pipeline if name in specs]
    return any(version_change(spec, dict(row.versions)) for spec in known)
