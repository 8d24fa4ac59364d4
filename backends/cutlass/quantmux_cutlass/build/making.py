"""Make one library: locked, in a folder of its own, checked, then renamed into the cache."""

from __future__ import annotations

import contextlib
import errno
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from filelock import FileLock, Timeout

from quantmux.errors import BuildError
from quantmux_cutlass.build.compilation import compile_into
from quantmux_cutlass.build.entries import Entry, discard, publish
from quantmux_cutlass.build.events import Event, Progress
from quantmux_cutlass.build.failures import find_failure, forget_failure, keep_failure
from quantmux_cutlass.build.known import Known, know
from quantmux_cutlass.build.nvcc_run import Stop
from quantmux_cutlass.build.refusals import cannot_build, disk_refused, failed_before
from quantmux_cutlass.build.room import ROOM
from quantmux_cutlass.build.work import sweep, work_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from quantmux_cutlass.units import Unit

TIMEOUT: Final = 900.0
"""Seconds one unit may take; on a busy machine the largest was seen to take six minutes."""

LOCK_PAUSE_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Made:
    """A library, and whether it was compiled now."""

    entry: Entry
    now: bool


def make(
    unit: Unit,
    target: str,
    *,
    force: bool = False,
    progress: Progress | None = None,
    jobs: int | None = None,
    stop: Stop | None = None,
    background: bool = False,
    timeout: float = TIMEOUT,
) -> Made:
    """Give a library, made now unless it is there.

    Args:
        unit: What to compile.
        target: One of its targets.
        force: Compile it anew, also what has failed before.
        progress: Told how far it is.
        jobs: At most so many compilers at once.
        stop: Ends it from another thread.
        background: Let other programs go first.
        timeout: Seconds until the compiler is ended.

    Raises:
        BuildError: As in `quantmux_cutlass.build.maker.build_now`.
    """
    start, stop = time.monotonic(), stop or Stop()

    def tell(phase: str) -> None:
        if progress is not None:
            progress(Event(unit, target, phase, time.monotonic() - start))

    try:
        made = _make(unit, target, force, tell, stop, jobs, background, timeout)
    except BaseException:
        tell("failed")
        raise
    tell("done" if made.now else "present")
    return made


def _make(
    unit: Unit,
    target: str,
    force: bool,
    tell: Callable[[str], None],
    stop: Stop,
    jobs: int | None,
    background: bool,
    timeout: float,
) -> Made:
    if target not in unit.targets:
        raise BuildError(
            f"{unit.name} is not for {target}",
            facts={"has": " · ".join(unit.targets), "asked": target},
            code="target",
        )
    known = know(unit, target)
    if not force:
        entry = _whole(known)
        if entry is not None:
            return Made(entry, now=False)
    if known.rejection is not None:
        raise cannot_build(unit, target, known.rejection)
    build = _Build(known, stop, tell, jobs, background, timeout)
    try:
        with _only_one(known, stop, tell):
            return build.run(force)
    except OSError as error:
        raise disk_refused(unit, target, known.cache, error) from error


def _whole(known: Known) -> Entry | None:
    """Give the library that is there and whole; one in the cache that is not is taken out."""
    cached = known.cached()
    if cached is not None:
        if cached.problem() is None:
            return cached
        discard(cached.folder)
    prebuilt = known.prebuilt()
    return prebuilt if prebuilt is not None and prebuilt.problem() is None else None


@dataclass(frozen=True, slots=True)
class _Build:
    """One compilation that is about to be, under the lock of its key."""

    known: Known
    stop: Stop
    tell: Callable[[str], None]
    jobs: int | None
    background: bool
    timeout: float

    def run(self, force: bool) -> Made:
        known = self.known
        if not force:  # another process may have made it while this one waited for the lock
            entry = _whole(known)
            if entry is not None:
                return Made(entry, now=False)
            failure = find_failure(known.cache, known.name)
            if failure is not None:
                raise failed_before(known.unit, known.target, failure)
        sweep(known.cache)
        self.tell("queued")
        room = ROOM.take(known.unit.memory_gib, known.cache, jobs=self.jobs, stop=self.stop)
        with room, work_folder(known.cache) as work:
            mine = self._compile(work, force)
        forget_failure(known.cache, known.name)
        entry = known.cached()
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, "what was written is not there", known.name)
        return Made(entry, now=mine)

    def _compile(self, work: Path, force: bool) -> bool:
        known = self.known
        self.tell("compiling")
        try:
            made = compile_into(
                work,
                known,
                timeout=self.timeout,
                stop=self.stop,
                background=self.background,
                checking=lambda: self.tell("checking"),
            )
        except BuildError as error:
            keep_failure(known.cache, known.name, error.code, error.facts)
            raise
        place = known.cache / known.name
        # what stands there and was not taken is not whole
        return publish(made, place, replace=force or known.cached() is None)


@contextlib.contextmanager
def _only_one(known: Known, stop: Stop, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a key; where the disk has no locks, the rename alone has to do."""
    folder = known.cache / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{known.name}.lock", thread_local=False)
    told = False
    while not stop.asked:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if not told:
                tell("waiting")
                told = True
            stop.sleep(LOCK_PAUSE_S)
        except NotImplementedError:
            break
        else:
            break
    try:
        yield
    finally:
        lock.release()
