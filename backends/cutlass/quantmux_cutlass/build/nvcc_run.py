"""One run of a compiler in a process group of its own, under a time limit.

nvcc starts cicc, ptxas and the host compiler; ending nvcc alone leaves them running, so the group
is ended. Its time and memory come from the kernel's account of the process and its children.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_POLL_S: Final = 0.02
_POLL_MOST_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Ran:
    """How a run ended.

    Attributes:
        status: Exit status; negative is the signal that ended it; None: it was ended by us.
        why: ``timeout`` or ``interrupted`` when it was ended by us, else "".
        seconds: Wall seconds.
        cpu_seconds: CPU seconds of it and its children.
        memory_mib: Resident memory of the largest of its processes, MiB.
        log: What it printed, both streams.
    """

    status: int | None
    why: str
    seconds: float
    cpu_seconds: float
    memory_mib: int
    log: str


class Stop:
    """Ends runs from another thread: every run that was given this, and every one to come."""

    def __init__(self) -> None:
        self._event = threading.Event()

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
    *,
    cwd: Path,
    env: Mapping[str, str],
    timeout: float,
    stop: Stop | None = None,
    background: bool = False,
) -> Ran:
    """Run a command to its end, its time limit, or until asked to stop.

    Whatever ends the wait, Ctrl-C too, ends the whole process group.

    Args:
        command: What to run.
        log: File for what it prints.
        cwd: Its working folder.
        env: Its environment.
        timeout: Seconds until it is ended.
        stop: Ends it from another thread.
        background: Let other programs go first.

    Raises:
        OSError: It cannot be started.
        KeyboardInterrupt: Ctrl-C, after it was ended.
    """
    stop = stop or Stop()
    start = time.monotonic()
    with log.open("wb") as out:
        process = _start(command, out, cwd=cwd, env=env)
    if background:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PGRP, process.pid, 10)
    try:
        ended = _wait(process, start + timeout, stop)
    except BaseException:
        _kill(process)
        raise
    why = ""
    if ended is None:
        why = "interrupted" if stop.asked else "timeout"
        ended = _kill(process)
    status, cpu, memory = ended
    return Ran(
        status=None if why else status,
        why=why,
        seconds=time.monotonic() - start,
        cpu_seconds=cpu,
        memory_mib=memory,
        log=_text(log),
    )


_End = tuple[int, float, int]
"""Exit status, CPU seconds, memory in MiB."""


def _start(
    command: Sequence[str], out: IO[bytes], *, cwd: Path, env: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        env=dict(env),
        process_group=0,
    )


def _wait(process: subprocess.Popen[bytes], deadline: float, stop: Stop) -> _End | None:
    pause = _POLL_S
    while True:
        ended = _reap(process, os.WNOHANG)
        if ended is not None:
            return ended
        left = deadline - time.monotonic()
        if left <= 0 or stop.asked:
            return None
        stop.sleep(min(pause, left))
        pause = min(_POLL_MOST_S, pause * 1.3)


def _kill(process: subprocess.Popen[bytes]) -> _End:
    """End the group, and wait for its first process."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        return _reap(process, 0) or (-signal.SIGKILL, 0.0, 0)
    return process.returncode, 0.0, 0


def _reap(process: subprocess.Popen[bytes], flags: int) -> _End | None:
    """Ask the kernel for the end of a process; None when it still runs.

    ``os.wait4`` instead of ``Popen.wait``: it tells time and memory of this process and of those
    it waited for, whatever else this program compiles at the same time.
    """
    try:
        pid, status, usage = os.wait4(process.pid, flags)
    except ChildProcessError:  # somebody else waits for all children of this program
        process.returncode = -1
        return -1, 0.0, 0
    if pid == 0:
        return None
    process.returncode = os.waitstatus_to_exitcode(status)
    memory = round(usage.ru_maxrss / 1024)  # KiB on Linux
    return process.returncode, usage.ru_utime + usage.ru_stime, memory


def _text(log: Path) -> str:
    try:
        return log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
