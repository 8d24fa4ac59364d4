"""Make libraries: one now, many at once, or one in the background."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from quantmux.errors import BuildError
from quantmux_cutlass.build.background import BackgroundBuild, build_in_background
from quantmux_cutlass.build.events import Event, Progress, Result
from quantmux_cutlass.build.making import make
from quantmux_cutlass.build.nvcc_run import Stop

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from quantmux_cutlass.units import Unit

__all__ = [
    "BackgroundBuild",
    "Event",
    "Progress",
    "Result",
    "build_in_background",
    "build_many",
    "build_now",
]


def build_now(
    unit: Unit, target: str, *, force: bool = False, progress: Progress | None = None
) -> Path:
    """Give a unit's library, compiled now unless it is there; blocks.

    Args:
        unit: What to compile.
        target: One of its targets.
        force: Compile it anew, also what has failed before.
        progress: Told how far it is.

    Raises:
        BuildError: Codes ``compile``, ``timeout``, ``library`` (made, and wrong), ``no_compiler``,
            ``headers``, ``target`` (not one of the unit's), ``disk``, ``cache`` (cannot be
            written), ``memory``, ``interrupted``.
    """
    return make(unit, target, force=force, progress=progress).entry.library


def build_many(
    pairs: Iterable[tuple[Unit, str]],
    *,
    jobs: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> list[Result]:
    """Make several libraries, as many at once as cores and memory allow, the longest first.

    One that fails does not end the others. Ctrl-C ends all compilers.

    Args:
        pairs: Units with the target of each.
        jobs: At most so many at once; None for what cores and memory allow.
        force: Compile them anew.
        progress: Told how far each is, from several threads.

    Returns:
        A result for each pair, in their order.
    """
    wanted = list(dict.fromkeys(pairs))
    stop = Stop()

    def one(pair: tuple[Unit, str]) -> Result:
        unit, target = pair
        try:
            made = make(unit, target, force=force, progress=progress, jobs=jobs, stop=stop)
        except BuildError as error:
            return Result(unit, target, error=error)
        return Result(unit, target, made.entry, made=made.now)

    order = sorted(wanted, key=lambda pair: -pair[0].seconds)
    pool = ThreadPoolExecutor(max_workers=max(1, len(order)), thread_name_prefix="quantmux-build")
    try:
        futures = {pair: pool.submit(one, pair) for pair in order}
        return [futures[pair].result() for pair in wanted]
    finally:
        stop()  # after Ctrl-C; else there is nothing left to end
        pool.shutdown(cancel_futures=True)
