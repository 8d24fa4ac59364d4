"""One run of a compiler in a process group of its own, under a time limit.

nvcc starts cicc, ptxas and the host compiler; ending nvcc alone leaves them running, so the group
is ended. Its time and memory come from `supervise`, a small program between it and this one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SUPERVISE: Final = Path(__file__).with_name("supervise.py")
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
    report = log.with_suffix(".json")
    supervisor = [sys.executable, "-I", "-S", str(_SUPERVISE), str(report), str(os.getpid())]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*supervisor, *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=dict(env),
            process_group=0,
        )
    if background:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PGRP, process.pid, 10)
    try:
        ended = _wait(process, start + timeout, stop)
    except BaseException:
        _kill(process)
        raise
    why = ""
    if not ended:
        why = "interrupted" if stop.asked else "timeout"
        _kill(process)
    found = _report(report)
    return Ran(
        status=None if why else found.get("status", process.returncode),
        why=why,
        seconds=time.monotonic() - start,
        cpu_seconds=found.get("cpu_seconds", 0.0),
        memory_mib=found.get("memory_mib", 0),
        log=_text(log),
    )


def _wait(process: subprocess.Popen[bytes], deadline: float, stop: Stop) -> bool:
    """Wait for the end; gives False when time is up, or somebody asked to stop."""
    pause = _POLL_S
    while process.poll() is None:
        left = deadline - time.monotonic()
        if left <= 0 or stop.asked:
            return False
        stop.sleep(min(pause, left))
        pause = min(_POLL_MOST_S, pause * 1.3)
    return True


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the group, and wait for its first process."""
    if process.poll() is None:  # until it is waited for, nobody else can have its number
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _report(report: Path) -> dict[str, Any]:
    try:
        found = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the supervisor itself was killed
        return {}
    return found if isinstance(found, dict) else {}


def _text(log: Path) -> str:
    try:
        return log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
