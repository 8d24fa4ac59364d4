"""The modules of this backend, as ``quantmux build flashinfer`` sees them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from quantmux.capability.arch import Arch
from quantmux.capability.detect import detect_devices
from quantmux.registry.library_unit import LibraryMade, LibraryUnit
from quantmux_flashinfer import catalog
from quantmux_flashinfer.jit.export import export
from quantmux_flashinfer.jit.gpus import target_here
from quantmux_flashinfer.jit.making import make
from quantmux_flashinfer.jit.modules import MODULES
from quantmux_flashinfer.jit.process import Stop
from quantmux_flashinfer.jit.states import State, refusal, state_of
from quantmux_flashinfer.jit.targets import numbers_of, part_of
from quantmux_flashinfer.jit.toolchain import find_toolchain

if TYPE_CHECKING:
    from quantmux.registry.library_unit import BuildOrder
    from quantmux_flashinfer.jit.modules import JitModule


def library_units() -> tuple[LibraryUnit, ...]:
    """Give one for each module that a kernel loads and each target, with its state now.

    The targets are those of single GPUs. Where this machine has several kinds, what holds them all
    stands in their place: FlashInfer compiles for all at once.
    """
    return tuple(
        _unit(MODULES[name], target, kernels)
        for name in users_of_modules()
        for target in targets_of(MODULES[name])
        if (kernels := _users_on(name, target))
    )


def users_of_modules() -> dict[str, tuple[str, ...]]:
    """Give the ids of the kernels that load a module, by module."""
    found: dict[str, list[str]] = {}
    for offer in catalog.offers():
        for use in offer.entry.modules:
            found.setdefault(use.name, []).append(offer.spec.id)
    return {name: tuple(dict.fromkeys(ids)) for name, ids in found.items()}


def _users_on(name: str, target: str) -> tuple[str, ...]:
    """Give the ids of the kernels that load a module on a GPU that a target is for."""
    archs = [Arch(vendor="nvidia", name=str(sm)) for sm in numbers_of(target)]
    return tuple(
        offer.spec.id
        for offer in catalog.offers()
        if any(
            name in offer.entry.modules_on(arch)
            and any(arch in archs_of for archs_of in offer.spec.capability.arch)
            for arch in archs
        )
    )


def targets_of(module: JitModule) -> tuple[str, ...]:
    """Give what a module can be compiled for: each GPU that loads it, those here together."""
    version = find_toolchain().version
    here = target_here(version)
    joint = numbers_of(here) if "+" in here else ()
    alone = [part_of(sm, version) for sm in module.archs if sm not in joint]
    has_joint = bool(set(joint) & set(module.archs))
    return tuple(dict.fromkeys([*([here] if has_joint else []), *alone]))


def states_here() -> dict[str, tuple[str, str]]:
    """Give state and reason of every module that the GPUs here load, by module; {} without one."""
    target = target_here(find_toolchain().version)
    here = {device.arch.sm for device in detect_devices()} & set(numbers_of(target))
    names = [name for name in users_of_modules() if here & set(MODULES[name].archs)]
    found = {name: state_of(name, target) for name in names}
    return {name: (str(state), reason) for name, (state, reason) in found.items()}


def _unit(module: JitModule, target: str, kernels: tuple[str, ...]) -> LibraryUnit:
    name = module.name
    state, reason = state_of(name, target)
    refused = refusal(name, target) if state is State.IMPOSSIBLE else None
    is_bad = state in (State.IMPOSSIBLE, State.FAILED)
    return LibraryUnit(
        name=name,
        target=target,
        kernels=kernels,
        make=partial(_made, name, target),
        state=str(state),
        reason=(refused.text if refused is not None else reason) if is_bad else "",
        hint=(refused.hint or "") if refused is not None else "",
        seconds=module.seconds,
        memory_gib=module.memory_gib,
    )


def _made(name: str, target: str, order: BuildOrder) -> LibraryMade:
    """Compile a module unless it is there; copy it where the order says so."""
    made = make(
        name,
        target,
        force=order.force,
        jobs=order.jobs,
        stop=Stop(order.stop),
        tell=order.tell,
    )
    path = made.path if order.into is None else export(made, name, target, order.into)
    return LibraryMade(
        path,
        made.seconds,
        made.memory_mib,
        path.stat().st_size,
        was_there=not made.now,
        cpu_seconds=made.cpu_seconds,
    )
