"""Libraries on demand: all that a layer needs are asked for at once, and spoken of as one.

`build.library.library` opens one, and has it compiled as option ``build`` of the plugin says:

- ``background`` (the default): in the background; the kernel says so (`NotBuiltError`), and the
  next one in order serves until somebody binds anew.
- ``wait``: now; who binds waits for the compiler.
- ``never``: not at all; a kernel whose libraries are not there is not selected.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from quantmux.errors import BuildError, NotBuiltError
from quantmux_cutlass.build.library import build_mode, library
from quantmux_cutlass.build.maker import build_in_background, build_many
from quantmux_cutlass.build.state import State, state_of
from quantmux_cutlass.build.toolchain import target_for

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantmux.capability.device import DeviceProfile
    from quantmux_cutlass.build.library import Library
    from quantmux_cutlass.units import Unit

HINT: Final = "quantmux build cutlass compiles all of them beforehand"

_NOT_THERE: Final = (State.MISSING, State.BUILDING)


def libraries(units: Iterable[Unit], device: DeviceProfile) -> dict[Unit, Library]:
    """Give the libraries of units, loaded for a device that is here.

    Those that are not there are all asked for before anything is said, so that they are compiled
    together and not one after the other.

    Raises:
        BuildError: One does not compile, is broken, or has no code for the device; it is told of
            before those that are only not compiled yet.
        NotBuiltError: Some are not compiled yet; its ``wait()`` waits for all of them.
    """
    wanted = {unit: _target(unit, device) for unit in units}
    if len(wanted) > 1 and build_mode() == "wait":
        pairs = wanted.items()
        build_many([pair for pair in pairs if state_of(*pair)[0] in _NOT_THERE])
    found: dict[Unit, Library] = {}
    late: dict[Unit, NotBuiltError] = {}
    broken: BuildError | None = None
    for unit, target in wanted.items():
        try:
            found[unit] = library(unit, target, device.index or 0)
        except NotBuiltError as error:
            late[unit] = error
        except BuildError as error:
            broken = broken or error
    if broken is not None:
        raise broken
    if late:
        raise _as_one({unit: wanted[unit] for unit in late}, late)
    return found


def _target(unit: Unit, device: DeviceProfile) -> str:
    target = target_for(unit, device.arch)
    if target is None:
        raise BuildError(
            f"{unit.name} has no code for {device.arch}",
            facts={"needs": " or ".join(unit.targets), "found": str(device.arch)},
            code="wrong_target",
        )
    return target


def _as_one(targets: dict[Unit, str], late: dict[Unit, NotBuiltError]) -> NotBuiltError:
    """Give one error for several; the same text for the first layer and, later on, the last."""
    names = ", ".join(f"{unit.name} for {target}" for unit, target in targets.items())
    if any(error.ready is None for error in late.values()):
        why = next(error for error in late.values() if error.ready is None)
        return NotBuiltError(f"{names}: not compiled", facts=why.facts, hint=why.hint)
    seconds = max(unit.seconds for unit in targets)
    each = "" if len(late) == 1 else " each"
    return NotBuiltError(
        f"{names}: being compiled in the background, about {seconds:.0f} s{each}",
        ready=_all_done(targets),
        hint=HINT,
    )


def _all_done(targets: dict[Unit, str]) -> threading.Event:
    """Give an event that is set when all builds have ended."""
    builds = [build_in_background(unit, target) for unit, target in targets.items()]
    if len(builds) == 1:
        return builds[0].done
    ready = threading.Event()

    def look(_build: object = None) -> None:
        if all(build.done.is_set() for build in builds):
            ready.set()

    for build in builds:
        build.add_done_callback(look)
    return ready


__all__ = ["HINT", "libraries"]
