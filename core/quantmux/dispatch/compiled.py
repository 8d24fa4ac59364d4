"""Libraries that kernels need compiled for a device that is not here, but this machine is asked.

Where the device is here, its backend answers by a veto, config by config. For a named device it
does not: what it could compile elsewhere is assumed. With ``installed_only`` the question is what
this machine has, so it is asked of the libraries, which a backend lists for every target.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.errors import PluginError

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.registry.library_unit import LibraryUnit
    from quantmux.registry.manager import Registry

_NEVER = ("impossible", "failed")


def library_answers(
    registry: Registry, device: DeviceProfile
) -> tuple[dict[str, Rejection], dict[str, str]]:
    """Give kernel id → why none of its libraries can be had here; and → what is yet to compile.

    A kernel some of whose libraries can be had is not rejected: which of them a layer needs is not
    known before its config is. A plugin that cannot say what it compiles has said nothing.

    Args:
        registry: The plugins.
        device: A named device.
    """
    rejected: dict[str, Rejection] = {}
    missing: dict[str, str] = {}
    for backend in dict.fromkeys(spec.backend for spec in registry.kernels):
        try:
            units = registry.libraries(backend)
        except PluginError:
            continue
        mine: dict[str, list[LibraryUnit]] = {}
        for unit in units:
            if unit.runs_on(device.arch):
                for kernel in unit.kernels:
                    mine.setdefault(kernel, []).append(unit)
        for kernel, its in mine.items():
            away = [unit for unit in its if not unit.is_there]
            if its and all(unit.state in _NEVER for unit in its):
                rejected[kernel] = _rejection(its[0], backend)
            elif away:
                one = away[0]
                text = f"{one.name} is compiled for {one.target} (quantmux build {backend})"
                missing[kernel] = text if len(away) == 1 else f"{text}, and {len(away) - 1} more"
    return rejected, missing


def _rejection(unit: LibraryUnit, backend: str) -> Rejection:
    return Rejection(
        code=RejectionCode.NOT_BUILT,
        field="library",
        required=f"{unit.name} for {unit.target}",
        actual=unit.reason or unit.state,
        hint=unit.hint or f"quantmux build {backend}",
    )
