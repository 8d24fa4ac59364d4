"""One run of a worker in a process group of its own, under a time limit.

The worker starts ninja, that nvcc, that cicc, ptxas and the host compiler; ending the first alone
leaves the others running, so the group is ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_POLL_S: Final = 0.02
_POLL_MOST_S: Final = 0.25
_PEAK: Final = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Ran:
    """How a run ended.

    Attributes:
        status: Exit status; negative is the signal that ended it; None: it was ended by us.
        why: ``timeout`` or ``interrupted`` when it was ended by us, else "".
        seconds: Wall seconds.
        memory_mib: Memory of the largest process that it started, MiB; looked at four times a
            second, so that of a short one may be missed.
        report: What the worker wrote down of itself; {} when it could not.
        log: What it and the compilers printed.
    """

    status: int | None
    why: str
    seconds: float
    memory_mib: int
    report: dict[str, Any]
    log: str


class Stop:
    """Ends runs from another thread: every run that was given this, and every one to come."""

    def __init__(self, event: threading.Event | None = None) -> None:
        self._event = event if event is not None else threading.Event()

    def __call__(self) -> None:
        """End them."""
        self._event.set()

    @property
    def asked(self) -> bool:
        """Whether they were asked to end."""
        return self._event.is_set()

    def sleep(self, seconds: float) -> None:
        """Sleep, shorter when asked to end."""
        self._event.wait(seconds)


def run(
    command: Sequence[str],
    log: Path,
    report: Path,
    *,
    env: Mapping[str, str],
    timeout: float,
    stop: Stop,
    background: bool = False,
    look: Callable[[], None] | None = None,
) -> Ran:
    """Run a command to its end, its time limit, or until asked to stop.

    Whatever ends the wait, Ctrl-C too, ends the whole process group.

    Args:
        command: What to run.
        log: File for what it prints.
        report: File that it writes about itself, JSON.
        env: Its environment.
        timeout: Seconds until it is ended.
        stop: Ends it from another thread.
        background: Let other programs go first.
        look: Called again and again while it runs.

    Raises:
        OSError: It cannot be started, or the log cannot be written.
        KeyboardInterrupt: Ctrl-C, after it was ended.
    """
    start = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=dict(env),
            start_new_session=True,
        )
    if background:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PGRP, process.pid, 10)
    largest = _Largest(process.pid)

    def tick() -> None:
        largest.look()
        if look is not None:
            look()

    try:
        ended = _wait(process, start + timeout, stop, tick)
    except BaseException:
        _kill(process)
        raise
    why = ""
    if not ended:
        why = "interrupted" if stop.asked else "timeout"
        _kill(process)
    status = None if why else process.returncode
    seconds = time.monotonic() - start
    return Ran(status, why, seconds, round(largest.kib / 1024), _read(report), text_of(log))


def text_of(log: Path) -> str:
    """Give what a log has so far; "" where it cannot be read."""
    try:
        return log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _wait(
    process: subprocess.Popen[bytes],
    deadline: float,
    stop: Stop,
    look: Callable[[], None],
) -> bool:
    """Wait for the end; gives False when time is up, or somebody asked to stop."""
    pause = _POLL_S
    while process.poll() is None:
        left = deadline - time.monotonic()
        if left <= 0 or stop.asked:
            return False
        look()
        stop.sleep(min(pause, left))
        pause = min(_POLL_MOST_S, pause * 1.3)
    return True


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the group, and wait for its first process."""
    if process.poll() is None:  # until it is waited for, nobody else can have its number
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class _Largest:
    """The memory of the largest process of a session, its first one left out."""

    def __init__(self, session: int) -> None:
        self._session = session
        self.kib = 0

    def look(self) -> None:
        """Look at all processes of the machine, as /proc shows them."""
        for folder in Path("/proc").glob("[0-9]*"):
            number = int(folder.name)
            if number == self._session:
                continue
            try:
                if os.getsid(number) != self._session:
                    continue
                status = (folder / "status").read_text(encoding="utf-8")
            except (OSError, ValueError):  # it has ended meanwhile
                continue
            found = _PEAK.search(status)
            self.kib = max(self.kib, int(found[1]) if found else 0)


def _read(report: Path) -> dict[str, Any]:
    try:
        found = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # it was killed before
        return {}
    return found if isinstance(found, dict) else {}
