"""Modules on demand: all that a kernel needs are asked for at once, and spoken of as one.

FlashInfer compiles a module in the thread that first calls it, for half a minute to several. Here
a module is compiled beforehand, as option ``build`` of the plugin says:

- ``background`` (the default): in the background; the kernel says so (`NotBuiltError`), and the
  next one in order serves until somebody binds anew.
- ``wait``: now; who binds waits for the compilers.
- ``never``: not at all; a kernel whose modules are not there is not selected.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from quantmux.errors import BuildError, NotBuiltError
from quantmux_flashinfer.jit.background import build_in_background
from quantmux_flashinfer.jit.environment import apply
from quantmux_flashinfer.jit.failures import find_failure, ground_of
from quantmux_flashinfer.jit.gpus import target_for
from quantmux_flashinfer.jit.making import by_length, make_many
from quantmux_flashinfer.jit.modules import MODULES
from quantmux_flashinfer.jit.place import find_place
from quantmux_flashinfer.jit.refusals import cannot_build, failed_before
from quantmux_flashinfer.jit.settings import build_mode
from quantmux_flashinfer.jit.states import THERE, State, refusal, state_of
from quantmux_flashinfer.jit.targets import VARIABLE
from quantmux_flashinfer.jit.toolchain import find_toolchain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantmux.capability.device import DeviceProfile
    from quantmux_flashinfer.jit.background import BackgroundBuild

HINT: Final = "quantmux build flashinfer compiles all of them beforehand"


def ensure(names: Iterable[str], device: DeviceProfile) -> None:
    """See that modules are compiled for a device that is here; returns when all are.

    Those that are not there are all asked for before anything is said, so that they are compiled
    together and not one after the other.

    Args:
        names: Of modules, as in `modules.MODULES`.
        device: The device.

    Raises:
        BuildError: One cannot be compiled here (code ``unavailable``) or did not compile; it is
            told of before those that are only not compiled yet.
        NotBuiltError: Some are not compiled yet; its ``wait()`` waits for all of them.
    """
    apply()
    wanted = list(dict.fromkeys(names))
    if not wanted:
        return
    target = _target(device)
    late = [name for name in wanted if state_of(name, target)[0] not in THERE]
    for name in late:
        refused = refusal(name, target)
        if refused is not None:
            raise cannot_build(name, target, refused, "unavailable")
    if not late:
        return
    mode = build_mode()
    if mode == "never":
        raise NotBuiltError(
            f"{_listed(late, target)}: not compiled",
            facts=['build = "never" in [plugins.flashinfer]'],
            hint="quantmux build flashinfer",
        )
    for name in late:
        _not_again(name, target)
    if mode == "wait":
        results = make_many(late, target)
        error = next((r for r in results.values() if isinstance(r, BuildError)), None)
        if error is not None:
            raise error
        return
    # one that has ended well, and is not there any longer, is made anew
    builds = [build_in_background(name, target, again=True) for name in by_length(late)]
    raise _late(late, target, builds)


def _target(device: DeviceProfile) -> str:
    target = target_for(device.arch, find_toolchain().version)
    place = find_place()
    if place is not None and place.imported is not None and target != place.imported:
        raise BuildError(
            f"FlashInfer does not compile for {device.name} in this process",
            facts={"needs": target or str(device.arch), "found": place.imported or "no GPU"},
            hint="import FlashInfer when all GPUs are visible: it looks once, at its import",
            code="unavailable",
        )
    if not target:
        raise BuildError(
            f"FlashInfer does not compile for {device.arch}",
            facts=[f"{VARIABLE} names others"],
            hint=f"unset {VARIABLE}",
            code="unavailable",
        )
    return target


def _not_again(name: str, target: str) -> None:
    """Raise what a compilation ended in that has failed, and whose input is the same."""
    if state_of(name, target)[0] is not State.FAILED:
        return
    place = find_place()
    failure = None
    if place is not None:
        failure = find_failure(name, target, ground_of(place, find_toolchain()))
    if failure is not None:
        raise failed_before(name, target, failure)
    raise BuildError(
        f"FlashInfer's module {name} did not compile for {target} in this process",
        facts=[state_of(name, target)[1]],
        hint="quantmux build flashinfer --force",
        code="compile",
    )


def _late(names: list[str], target: str, builds: list[BackgroundBuild]) -> NotBuiltError:
    seconds = max(MODULES[name].seconds for name in names)
    each = "" if len(names) == 1 else " each"
    return NotBuiltError(
        f"{_listed(names, target)}: being compiled in the background, about {seconds:.0f} s{each}",
        ready=_all_done(builds),
        hint=HINT,
    )


def _listed(names: list[str], target: str) -> str:
    words = "module" if len(names) == 1 else "modules"
    return f"FlashInfer's {words} {', '.join(names)} for {target}"


def _all_done(builds: list[BackgroundBuild]) -> threading.Event:
    """Give an event that is set when all builds have ended."""
    ready = threading.Event()

    def look() -> None:
        if all(build.done.is_set() for build in builds):
            ready.set()

    for build in builds:
        build.add_done_callback(look)
    return ready
