"""In what state a library is, without compiling or loading anything."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from quantmux.errors import QuantmuxError
from quantmux_cutlass.build.background import in_background
from quantmux_cutlass.build.failures import find_failure
from quantmux_cutlass.build.known import know

if TYPE_CHECKING:
    from quantmux_cutlass.units import Unit


class State(StrEnum):
    """States of a library."""

    BUILT = "built"
    PREBUILT = "prebuilt"
    BUILDING = "building"
    FAILED = "failed"
    MISSING = "missing"
    IMPOSSIBLE = "impossible"


def state_of(unit: Unit, target: str) -> tuple[State, str]:
    """Give the state of a library and, in one line, why or where. Quick, and never raises.

    ============== ==============================================================
    ``built``      in the cache, for this nvcc, these headers and these sources
    ``prebuilt``   in the folder that option ``prebuilt`` names
    ``building``   this process compiles it in the background
    ``failed``     it did not compile, and nothing has changed since
    ``missing``    it can be compiled
    ``impossible`` it is not there, and there is no nvcc or there are no headers
    ============== ==============================================================

    Args:
        unit: What is compiled.
        target: One of its targets.
    """
    try:
        known = know(unit, target)
        entry = known.cached()
        if entry is not None:
            return State.BUILT, str(entry.folder)
        entry = known.prebuilt()
        if entry is not None:
            return State.PREBUILT, str(entry.folder)
    except QuantmuxError as error:  # of a source, or of an option
        return State.IMPOSSIBLE, error.headline
    rejection = known.rejection
    if rejection is not None:
        return State.IMPOSSIBLE, f"{rejection.text} ({rejection.hint})"
    build = in_background(unit, target)
    if build is not None:
        if not build.done.is_set():
            return State.BUILDING, f"about {build.seconds_left:.0f} s"
        if build.error is not None and build.error.code != "interrupted":
            return State.FAILED, build.error.headline
    failure = find_failure(known.cache, known.name)
    if failure is not None:
        last = failure.log[-1] if failure.log else failure.code
        return State.FAILED, f"{failure.when}: {last}"
    return State.MISSING, f"about {unit.seconds:.0f} s to compile"
