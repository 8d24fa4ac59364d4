"""Make one module: when there is room, by a worker, in FlashInfer's own cache."""

from __future__ import annotations

import math
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from filelock import FileLock, Timeout

from quantmux.errors import BuildError
from quantmux_flashinfer.jit import states
from quantmux_flashinfer.jit.environment import for_worker
from quantmux_flashinfer.jit.failures import (
    find_failure,
    forget_failure,
    ground_of,
    keep_failure,
)
from quantmux_flashinfer.jit.modules import MODULES
from quantmux_flashinfer.jit.place import find_place
from quantmux_flashinfer.jit.process import Stop, run, text_of
from quantmux_flashinfer.jit.refusals import (
    cannot_build,
    disk_refused,
    failed_before,
    run_failed,
    telling_lines,
)
from quantmux_flashinfer.jit.room import ROOM
from quantmux_flashinfer.jit.settings import own_folder
from quantmux_flashinfer.jit.toolchain import find_toolchain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from quantmux_flashinfer.jit.modules import JitModule
    from quantmux_flashinfer.jit.place import Place

TIMEOUT: Final = 900.0
"""Seconds a module may take that has a core for every unit; see `_timeout`."""

UNIT_TIMEOUT: Final = 300.0
"""Seconds one unit may take."""

LOCK_PAUSE_S: Final = 0.2

_WORKER: Final = "quantmux_flashinfer.jit.worker"
_STEP: Final = re.compile(r"^\[(\d+)/(\d+)\]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Made:
    """A module that is there.

    Attributes:
        path: The library.
        now: It was compiled now.
        seconds: Wall seconds that took.
        cpu_seconds: CPU seconds of it.
        memory_mib: Memory of the largest compiler, MiB.
    """

    path: Path
    now: bool = False
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory_mib: int = 0


def make(
    name: str,
    target: str,
    *,
    force: bool = False,
    jobs: int | None = None,
    stop: Stop | None = None,
    tell: Callable[[str], None] | None = None,
    background: bool = False,
    timeout: float | None = None,
) -> Made:
    """Give a module, compiled now unless it is there.

    Args:
        name: Of the module.
        target: What to compile for, as in `targets`.
        force: Compile it anew, also what has failed before.
        jobs: At most so many compilers at once in this process.
        stop: Ends it from another thread.
        tell: Told how far it is: ``queued`` (for cores and memory), ``waiting`` (another process
            compiles it), ``compiling``, ``3 of 8``; at last ``done``, ``present`` or ``failed``.
        background: Let other programs go first.
        timeout: Seconds until the compilers are ended; None is by the number of units.

    Raises:
        BuildError: Codes ``compile``, ``timeout``, ``no_compiler``, ``headers``, ``target`` (no
            GPU of it loads the module), ``unavailable`` (FlashInfer is not installed), ``disk``,
            ``cache`` (cannot be written), ``memory``, ``interrupted``.
    """
    say = tell or _silent
    try:
        made = _make(name, target, force, jobs, stop or Stop(), say, background, timeout)
    except OSError as error:
        say("failed")
        raise disk_refused(name, target, error) from error
    except BaseException:
        say("failed")
        raise
    say("done" if made.now else "present")
    return made


def make_many(
    names: Iterable[str],
    target: str,
    *,
    jobs: int | None = None,
    force: bool = False,
    tell: Callable[[str, str], None] | None = None,
) -> dict[str, Made | BuildError]:
    """Make several modules, as many units at once as cores and memory allow, the longest first.

    One that fails does not end the others. Ctrl-C ends all compilers.

    Args:
        names: Of the modules.
        target: What for.
        jobs: At most so many compilers at once.
        force: Compile them anew.
        tell: Told module and phase, from several threads.
    """
    stop = Stop()

    def one(name: str) -> Made | BuildError:
        def say(phase: str) -> None:
            if tell is not None:
                tell(name, phase)

        try:
            return make(name, target, force=force, jobs=jobs, stop=stop, tell=say)
        except BuildError as error:
            return error

    order = by_length(names)
    pool = ThreadPoolExecutor(max_workers=max(1, len(order)), thread_name_prefix="quantmux-build")
    try:
        futures = {name: pool.submit(one, name) for name in order}
        return {name: future.result() for name, future in futures.items()}
    finally:
        stop()  # after Ctrl-C; else there is nothing left to end
        pool.shutdown(cancel_futures=True)


def by_length(names: Iterable[str]) -> list[str]:
    """Put modules in the order in which they should be begun: the longest first."""
    return sorted(dict.fromkeys(names), key=lambda name: -MODULES[name].seconds)


def _make(
    name: str,
    target: str,
    force: bool,
    jobs: int | None,
    stop: Stop,
    tell: Callable[[str], None],
    background: bool,
    timeout: float | None,
) -> Made:
    module = MODULES[name]
    there = _there(name, target)
    if there is not None and (not force or there[0] is states.State.PREBUILT):
        return Made(there[1])
    refused = states.refusal(name, target)
    if refused is not None:
        code = "unavailable" if refused.field == "flashinfer-python" else ""
        raise cannot_build(name, target, refused, code)
    place = _place()
    ground = ground_of(place, find_toolchain())
    failure = find_failure(name, target, ground)
    if failure is not None and not force:
        raise failed_before(name, target, failure)
    build = _Build(module, target, place, ground, stop, tell, background, timeout)
    if build.waited() and not force:
        there = _there(name, target)  # another process has made it meanwhile
        if there is not None:
            return Made(there[1])
    tell("queued")
    with ROOM.take(
        module.units,
        module.memory_gib,
        own_folder() / "slots",
        length=module.seconds,
        jobs=jobs,
        stop=stop,
    ) as granted:
        return build.run(granted, force)


def _there(name: str, target: str) -> tuple[states.State, Path] | None:
    """Give state and file of a module that FlashInfer loads as it lies."""
    state, where = states.state_of(name, target)
    return (state, Path(where)) if state in states.THERE else None


def _place() -> Place:
    place = find_place()
    if place is None:
        raise BuildError("FlashInfer is not installed any longer", code="unavailable")
    return place


@dataclass(frozen=True, slots=True)
class _Build:
    """One compilation that is about to be."""

    module: JitModule
    target: str
    place: Place
    ground: str
    stop: Stop
    tell: Callable[[str], None]
    background: bool
    timeout: float | None

    def waited(self) -> bool:
        """Wait while another process holds FlashInfer's lock of the module; tells whether one did.

        The worker takes the lock itself; whoever waits here takes no cores and memory meanwhile.
        """
        file = self.place.lock(self.module.name, self.target)
        waited = False
        while file.is_file() and not self.stop.asked:
            lock = FileLock(file, thread_local=False)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                if not waited:
                    self.tell("waiting")
                    waited = True
                self.stop.sleep(LOCK_PAUSE_S)
            except NotImplementedError:
                break
            else:
                lock.release()
                break
        return waited

    def run(self, jobs: int, force: bool) -> Made:
        """Compile it."""
        name = self.module.name
        folder = own_folder() / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / f"{name}-{self.target}.log"
        report = log.with_suffix(".json")
        report.unlink(missing_ok=True)
        limit = self.timeout or _timeout(self.module, jobs)
        self.tell("compiling")
        ran = run(
            [*self._command(jobs, report), *(["--force"] if force else [])],
            log,
            report,
            env={**for_worker(self.place, self.target, jobs), "PYTHONPATH": _python_path()},
            timeout=limit,
            stop=self.stop,
            background=self.background,
            look=_Steps(log, self.tell).look,
        )
        library = self.place.library(name, self.target)
        if ran.status != 0 or not library.is_file():
            error = run_failed(self.module, self.target, ran, limit)
            keep_failure(name, self.target, self.ground, error.code, telling_lines(ran.log))
            raise error
        forget_failure(name, self.target)
        states.forget()
        cpu = float(ran.report.get("cpu_seconds", 0.0))
        return Made(library, True, ran.seconds, cpu, ran.memory_mib)

    def _command(self, jobs: int, report: Path) -> list[str]:
        return [
            *(sys.executable, "-P", "-m", _WORKER, self.module.name),
            *("--arch", self.target, "--jobs", str(jobs)),
            *("--report", str(report), "--parent", str(os.getpid())),
        ]


class _Steps:
    """Tells how many of a module's units are done, from ninja's output."""

    def __init__(self, log: Path, tell: Callable[[str], None]) -> None:
        self._log, self._tell = log, tell
        self._last = ""
        self._next = 0.0

    def look(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + 1.0
        found = list(_STEP.finditer(text_of(self._log)))
        text = f"{found[-1][1]} of {found[-1][2]}" if found else ""
        if text and text != self._last:
            self._last = text
            self._tell(text)


def _timeout(module: JitModule, jobs: int) -> float:
    """Give the seconds that a module may take: more where its units have to queue for cores."""
    return max(TIMEOUT, math.ceil(module.units / max(1, jobs)) * UNIT_TIMEOUT)


def _python_path() -> str:
    """Give the folders of modules as this process knows them: the worker finds the same ones."""
    return os.pathsep.join(entry for entry in sys.path if entry and Path(entry).exists())


def _silent(_phase: str) -> None:
    return
