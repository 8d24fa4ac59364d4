"""Making the libraries of backends: all at once, each waiting for its turn, ended by Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from quantmux.errors import BuildError, QuantmuxError
from quantmux.registry.guard import describe, guarded
from quantmux.registry.interrupts import remembered_ctrl_c
from quantmux.registry.library_unit import BuildOrder, LibraryMade, LibraryUnit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_TICK: Final = 0.2
"""Seconds after which a wait looks whether Ctrl-C was pressed."""


@dataclass(frozen=True, slots=True)
class LibraryResult:
    """How one library came out.

    Attributes:
        unit: What was asked.
        made: The library, None where it could not be made.
        error: Why not.
    """

    unit: LibraryUnit
    made: LibraryMade | None = None
    error: QuantmuxError | None = None

    @property
    def state(self) -> str:
        """``built`` now, ``there`` before, ``failed``, ``impossible`` or ``interrupted``."""
        if self.made is not None:
            return "there" if self.made.was_there else "built"
        code = self.error.code if self.error is not None else ""
        if code == "interrupted":
            return code
        return "impossible" if code in ("no_compiler", "headers", "unavailable") else "failed"


class OnBuild(Protocol):
    """Hears how far a build is, from several threads."""

    def step(self, unit: LibraryUnit, phase: str) -> None:
        """Something happens to a library; ``phase`` is a word of the backend's."""
        ...

    def done(self, result: LibraryResult) -> None:
        """One library is there, or cannot be."""
        ...


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended a build; ``results`` has what was done before."""

    def __init__(self, results: tuple[LibraryResult, ...]) -> None:
        super().__init__()
        self.results = results


def make_libraries(
    units: Sequence[LibraryUnit],
    *,
    jobs: int | None = None,
    force: bool = False,
    into: Path | None = None,
    progress: OnBuild | None = None,
) -> tuple[LibraryResult, ...]:
    """Make libraries; one that fails does not end the others.

    Args:
        units: What to make. The longest begin first.
        jobs: At most so many compilers at once; None is what cores and memory allow.
        force: Compile anew what is there or has failed before.
        into: Folder that gets a copy of each.
        progress: Told how far it is.

    Returns:
        A result for each, in their order.

    Raises:
        Interrupted: Ctrl-C; the compilers have been ended.
    """
    if not units:
        return ()
    stop = threading.Event()
    results: dict[int, LibraryResult] = {}

    def one(unit: LibraryUnit) -> LibraryResult:
        tell = None if progress is None else partial(progress.step, unit)
        result = _made(unit, BuildOrder(stop, force, into, jobs, tell))
        if progress is not None:
            progress.done(result)
        return result

    order = sorted(range(len(units)), key=lambda place: -units[place].seconds)
    pool = ThreadPoolExecutor(len(units), "quantmux-libraries")
    with remembered_ctrl_c() as pressed:
        try:
            places: dict[Future[LibraryResult], int] = {
                pool.submit(one, units[place]): place for place in order
            }
            waiting = set(places)
            while waiting and not pressed:
                done, waiting = wait(waiting, _TICK, FIRST_COMPLETED)
                results.update({places[future]: future.result() for future in done})
        except KeyboardInterrupt:
            pressed.append(0)
        finally:
            stop.set()  # nobody waits any longer, whatever ended the wait
            pool.shutdown(cancel_futures=True)
        if pressed:
            raise Interrupted(tuple(results[place] for place in sorted(results)))
    return tuple(results[place] for place in range(len(units)))


def _made(unit: LibraryUnit, order: BuildOrder) -> LibraryResult:
    make: Callable[[BuildOrder], Any] = unit.make
    outcome = guarded(lambda: make(order))
    error = outcome.error
    if isinstance(error, QuantmuxError):
        return LibraryResult(unit, error=error)
    if error is not None:
        return LibraryResult(unit, error=_wrong(unit, f"raised {describe(error)}"))
    if not isinstance(outcome.value, LibraryMade):
        given = f"gave a {type(outcome.value).__name__}, not a LibraryMade"
        return LibraryResult(unit, error=_wrong(unit, given))
    return LibraryResult(unit, outcome.value)


def _wrong(unit: LibraryUnit, fact: str) -> BuildError:
    return BuildError(
        f"library {unit.name} for {unit.target} could not be made",
        facts=[f"its plugin {fact}"],
        hint="report it to the plugin's authors",
        code="plugin_error",
    )
