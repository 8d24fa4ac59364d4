"""Gather the inventory of one device: kernels, what blocks them, what proves them, their times."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from quantmux.capability.needs import needs_rejections
from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.dispatch.inventory import Inventory
from quantmux.dispatch.tuning import TuningRow, TuningTable
from quantmux.errors import ConfigError
from quantmux.registry.digest import kernel_digest
from quantmux.registry.ledger import read_ledger

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from quantmux.capability.device import DeviceProfile
    from quantmux.registry.manager import Registry

_log = logging.getLogger("quantmux.select")


def gather(
    registry: Registry,
    device: DeviceProfile,
    *,
    installed_only: bool = False,
    quarantined: Mapping[str, Rejection] | None = None,
    user_folder: Path | None = None,
) -> Inventory:
    """Give everything selection may know of a device.

    For a device that is not here, packages and tools are taken as present and listed as
    assumptions; with ``installed_only`` this machine is asked instead.

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
    ledger = read_ledger(registry, device, user_folder)
    return Inventory(
        kernels=registry.kernels,
        blocked=blocked,
        assumptions=assumptions,
        evidence=ledger.evidence,
        tuning=_tuning(registry, device, user_folder),
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


def _tuning(registry: Registry, device: DeviceProfile, user: Path | None) -> TuningTable:
    """Read ``tuning/<device>.json`` of every plugin, and the user's file over them."""
    rows: dict[tuple[Any, ...], TuningRow] = {}
    folders = [registry.folder(record.name) for record in registry.plugins]
    files = [folder / "tuning" / f"{device.name}.json" for folder in folders if folder]
    if user is not None:
        files.append(user / "tuning" / f"{device.name}.json")
    for file in files:
        for row in read_tuning(file):
            rows[row.pipeline, row.scheme, row.n, row.k, row.m] = row
    if not rows:
        return TuningTable()
    digests = {
        spec.id: kernel_digest(spec, registry.folder(spec.backend)) for spec in registry.kernels
    }
    return TuningTable(rows.values(), digests)


def read_tuning(file: Path) -> Iterable[TuningRow]:
    """Give the rows of a tuning file ``{"rows": [...]}``; none if it does not exist.

    A file that cannot be read costs its rows and one warning, never a selection.
    """
    try:
        text = file.read_text()
    except FileNotFoundError:
        return ()
    except OSError as error:
        _log.warning("tuning rows of %s are not used: %s", file, error)
        return ()
    try:
        data = json.loads(text)
        return tuple(_row(item) for item in data["rows"])
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        _log.warning("tuning rows of %s are not used: %s", file, error)
        return ()


def _row(item: dict[str, Any]) -> TuningRow:
    data = dict(item)
    for name in ("digests", "versions"):
        if isinstance(data.get(name), dict):
            data[name] = tuple(sorted(data[name].items()))
    return TuningRow(**data)
