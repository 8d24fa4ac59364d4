"""Whether a kernel's libraries are here or can be: the veto that all kernels of this backend share.

Asked of the device in this machine only: for a named profile the compiler is assumed, and listed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.registry.guard import guarded
from quantmux_cutlass.build.library import build_mode
from quantmux_cutlass.build.state import State, state_of
from quantmux_cutlass.build.toolchain import can_build, find_toolchain, target_for
from quantmux_cutlass.linear.choice import M_SAMPLES

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux_cutlass.units import Unit

    Veto = Callable[[LayerConfig, DeviceProfile], Rejection | None]

THERE: Final = (State.BUILT, State.PREBUILT)


def veto(spec: KernelSpec, units: tuple[Unit, ...]) -> Veto:
    """Give the kernel's own veto, and after it the question for its libraries."""
    own = spec.veto

    def answer(config: LayerConfig, device: DeviceProfile) -> Rejection | None:
        found = own(config, device) if own is not None else None
        if found is not None or not device.is_present or not device.is_cuda:
            return found
        return _unavailable(spec, units, config, device)

    return answer


def why_not(unit: Unit, target: str) -> Rejection | None:
    """Tell why no kernel can have the library of a unit here, None when one can."""
    refused = can_build(unit, target, find_toolchain())
    if refused is None and build_mode() != "never":
        return None
    state, reason = state_of(unit, target)
    if state in THERE:
        return None
    if refused is not None:
        return refused
    return Rejection(
        RejectionCode.NOT_BUILT,
        "library",
        f"{unit.name} for {target}",
        reason or 'not compiled, and build = "never"',
        "quantmux build cutlass",
    )


def _unavailable(
    spec: KernelSpec, units: tuple[Unit, ...], config: LayerConfig, device: DeviceProfile
) -> Rejection | None:
    away: dict[Unit, Rejection] = {}
    here = 0
    for unit in units:
        target = target_for(unit, device.arch)
        if target is None:
            continue
        here += 1
        reason = why_not(unit, target)
        if reason is not None:
            away[unit] = reason
    if not away:
        return None
    needed = units if len(away) == here else _needed(spec, units, config, device)
    return next((away[unit] for unit in needed if unit in away), None)


def _needed(
    spec: KernelSpec, units: tuple[Unit, ...], config: LayerConfig, device: DeviceProfile
) -> tuple[Unit, ...]:
    """Give the units that this config needs, as the kernel's config module chooses them.

    All of them where it has none: a kernel is bound with all that it may need.
    """
    name = spec.load.partition(":")[0] + "_config"
    found = guarded(lambda: importlib.import_module(name).choose)
    if found.value is None:
        return units
    choose: Any = found.value
    first, last = spec.capability.m_min, spec.capability.m_max
    ms = [m for m in M_SAMPLES if m >= first and (last is None or m <= last)]
    return tuple(dict.fromkeys(choose(config, device, m).unit for m in ms))
