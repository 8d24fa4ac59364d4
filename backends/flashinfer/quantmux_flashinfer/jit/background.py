"""Modules made while other kernels serve: one thread each, daemons, ended with the program."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Final

from quantmux.errors import BuildError
from quantmux_flashinfer.jit.modules import MODULES
from quantmux_flashinfer.jit.process import Stop

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("quantmux.flashinfer")

_END_S: Final = 5.0
"""Seconds that the end of the program waits for compilers to be ended."""


class BackgroundBuild:
    """One module that is being made in another thread.

    Attributes:
        name: Of the module.
        target: What for.
        done: Set at the end, however it ended.
        error: Why it failed; None while it runs and when it was made.
    """

    def __init__(self, name: str, target: str) -> None:
        self.name = name
        self.target = target
        self.done = threading.Event()
        self.error: BuildError | None = None
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []

    @property
    def seconds_left(self) -> float:
        """About how long it will still take; a guess from what it took elsewhere."""
        return max(0.0, MODULES[self.name].seconds - (time.monotonic() - self._started))

    def add_done_callback(self, function: Callable[[], None]) -> None:
        """Call a function at the end, from the building thread; at once when it has ended."""
        with self._lock:
            if not self.done.is_set():
                self._callbacks.append(function)
                return
        function()

    def finish(self, error: BuildError | None) -> None:
        """Say how it ended; for the thread that builds."""
        with self._lock:
            self.error = error
            self.done.set()
            callbacks, self._callbacks = self._callbacks, []
        for function in callbacks:
            function()


_lock = threading.Lock()
_builds: Final[dict[tuple[str, str], BackgroundBuild]] = {}
_threads: Final[list[threading.Thread]] = []
_stop = Stop()


def build_in_background(name: str, target: str, *, again: bool = False) -> BackgroundBuild:
    """Make a module in another thread; who asks for the same one twice gets the same build.

    Args:
        name: Of the module.
        target: What for.
        again: Try anew what has ended.
    """
    with _lock:
        known = _builds.get((name, target))
        if known is not None and not (again and known.done.is_set()):
            return known
        build = BackgroundBuild(name, target)
        _builds[name, target] = build
        title = f"quantmux-build-{name}-{target}"
        thread = threading.Thread(target=_run, args=(build, _stop), name=title, daemon=True)
        _threads[:] = [other for other in _threads if other.is_alive()]
        _threads.append(thread)
        # inside the lock: the end of the program must not find a thread that is not started
        thread.start()
        return build


def in_background(name: str, target: str) -> BackgroundBuild | None:
    """Give the build of a module that was begun in this process, None without one."""
    with _lock:
        return _builds.get((name, target))


def end_builds() -> None:
    """End all compilers of background builds, and wait shortly until they are gone."""
    global _stop  # noqa: PLW0603 - builds begun later have another one
    with _lock:
        _stop()
        _stop = Stop()
        threads = list(_threads)
    deadline = time.monotonic() + _END_S
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()))


def forget() -> None:
    """End all builds and forget how they ended."""
    end_builds()
    with _lock:
        _builds.clear()


def _run(build: BackgroundBuild, stop: Stop) -> None:
    # imported here: making asks in what state a module is, and that asks this module
    from quantmux_flashinfer.jit.making import make

    error = None
    what = f"FlashInfer's module {build.name} for {build.target}"
    log.info("%s is compiled in the background, about %.0f s", what, build.seconds_left)
    try:
        made = make(build.name, build.target, stop=stop, background=True)
        log.info("%s is there after %.0f s", what, made.seconds)
    except BuildError as refused:
        error = refused
        if refused.code != "interrupted":
            log.warning("%s", refused)
    except Exception as fault:
        error = BuildError(
            f"compiling {build.name} for {build.target} ended in {type(fault).__name__}",
            facts=[str(fault)],
            code="internal",
        )
        error.__cause__ = fault
        log.warning("%s", error, exc_info=fault)
    build.finish(error)


def _after_fork() -> None:
    """In a forked child there are none of the threads, and the compilers are the parent's."""
    global _lock, _stop  # noqa: PLW0603 - a lock may have been held when the fork came
    _lock = threading.Lock()
    _stop = Stop()
    _builds.clear()
    _threads.clear()


atexit.register(end_builds)
with contextlib.suppress(AttributeError):
    os.register_at_fork(after_in_child=_after_fork)
