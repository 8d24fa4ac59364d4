"""The libraries of this backend, as ``quantmux build cutlass`` sees them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from quantmux.registry.library_unit import LibraryMade, LibraryUnit
from quantmux_cutlass.build.making import make
from quantmux_cutlass.build.nvcc_run import Stop
from quantmux_cutlass.build.prebuilt import export
from quantmux_cutlass.build.state import State, state_of
from quantmux_cutlass.build.toolchain import can_build, find_toolchain
from quantmux_cutlass.catalog import all_units

if TYPE_CHECKING:
    from threading import Event

    from quantmux.registry.library_unit import BuildOrder
    from quantmux_cutlass.build.events import Event as Step
    from quantmux_cutlass.units import Unit


def library_units() -> tuple[LibraryUnit, ...]:
    """Give one for each unit and target, with its state now."""
    return tuple(
        _library(unit, target, kernels)
        for unit, kernels in all_units().items()
        for target in unit.targets
    )


def _library(unit: Unit, target: str, kernels: tuple[str, ...]) -> LibraryUnit:
    state, reason = state_of(unit, target)
    refused = can_build(unit, target, find_toolchain()) if state is State.IMPOSSIBLE else None
    is_bad = state in (State.IMPOSSIBLE, State.FAILED)
    return LibraryUnit(
        name=unit.name,
        target=target,
        kernels=kernels,
        make=partial(_made, unit, target),
        state=str(state),
        reason=(refused.text if refused is not None else reason) if is_bad else "",
        hint=(refused.hint or "") if refused is not None else "",
        seconds=unit.seconds,
        memory_gib=unit.memory_gib,
    )


def _made(unit: Unit, target: str, order: BuildOrder) -> LibraryMade:
    """Compile a library unless it is there; copy it where the order says so."""
    tell = order.tell

    def progress(step: Step) -> None:
        if tell is not None:
            tell(step.phase)

    made = make(
        unit,
        target,
        force=order.force,
        progress=progress,
        jobs=order.jobs,
        stop=_StopWith(order.stop),
    )
    entry = made.entry if order.into is None else export(unit, target, order.into)
    record = entry.record
    return LibraryMade(
        entry.library,
        record.seconds,
        record.memory_mib,
        record.bytes,
        was_there=not made.now,
        cpu_seconds=record.cpu_seconds,
    )


class _StopWith(Stop):
    """Ends runs when an event of somebody else's is set."""

    def __init__(self, event: Event) -> None:
        super().__init__()
        self._event = event
