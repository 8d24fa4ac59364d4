"""How many compilers may run at once: as many as there are cores, and memory for.

A kernel on CUTLASS's headers takes 4 to 6 GiB while it is compiled; as many at a time as there are
cores is how others' builds end in the hands of the out-of-memory killer. So every compilation asks
for its memory first. It waits while this process's others hold what there is, and, for a heavy
one, while other processes of this host hold all slots (lock files in the cache: eight ranks that
start at once are one build).
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux_cutlass.build.nvcc_run import Stop

GIB: Final = 1024**3

SPARE_GIB: Final = 4.0
"""Memory that is left to everybody else."""

HEAVY_GIB: Final = 1.5
"""From here on a compilation takes one of the host's slots."""

_PAUSE_S: Final = 0.2
_CGROUP: Final = Path("/sys/fs/cgroup")


class Room:
    """What the compilers of this process may take together."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: list[float] = []
        self._budget = 0.0

    @contextlib.contextmanager
    def take(
        self, gib: float, cache: Path, *, jobs: int | None = None, stop: Stop
    ) -> Iterator[None]:
        """Wait for room, hold it. Asked to stop, it goes on at once: the run will end at once.

        Args:
            gib: Memory one compilation takes.
            cache: Folder whose ``slots`` all processes of this host share.
            jobs: At most so many at once, None for what cores and memory allow.
            stop: Ends the wait.
        """
        most = jobs or jobs_here(gib)
        while not (entered := self._enter(gib, most)) and not stop.asked:
            with self._changed:
                self._changed.wait(_PAUSE_S)
        try:
            with _slot(cache, most, stop) if gib >= HEAVY_GIB else contextlib.nullcontext():
                yield
        finally:
            with self._changed:
                if entered:
                    self._held.remove(gib)
                self._changed.notify_all()

    def _enter(self, gib: float, most: int) -> bool:
        with self._changed:
            if not self._held:
                # one always goes: waiting for memory that no build of ours holds has no end
                self._budget = available_gib() - SPARE_GIB
                self._held.append(gib)
                return True
            fits = len(self._held) < most and sum(self._held) + gib <= self._budget
            if fits and available_gib() - SPARE_GIB >= gib:
                self._held.append(gib)
                return True
            return False


ROOM: Final = Room()
"""The one of this process."""


def jobs_here(gib: float, *, available: float | None = None, cores: int | None = None) -> int:
    """Give how many compilations may run at once.

    Args:
        gib: Memory each of them takes.
        available: Memory that can be had, GiB; None asks this machine.
        cores: Processors; None asks this machine.
    """
    memory = available_gib() if available is None else available
    by_memory = int((memory - SPARE_GIB) / max(gib, 0.05))
    return max(1, min(cores_here() if cores is None else cores, by_memory))


def cores_here() -> int:
    """Give the processors that this process may use, the container's limit counted."""
    cores = len(os.sched_getaffinity(0))
    limit = _words(_CGROUP / "cpu.max")
    if len(limit) == 2 and limit[0].isdigit() and limit[1].isdigit():
        cores = min(cores, max(1, round(int(limit[0]) / int(limit[1]))))
    return cores


def available_gib() -> float:
    """Give the memory that can still be had, GiB, the container's limit counted."""
    found = [_meminfo(), _cgroup_left()]
    return min((value for value in found if value is not None), default=8 * GIB) / GIB


def _meminfo() -> float | None:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            return float(line.split()[1]) * 1024
    return None


def _cgroup_left() -> float | None:
    """Give what the container's limit leaves; files that the kernel keeps may be dropped."""
    most, used = _words(_CGROUP / "memory.max"), _words(_CGROUP / "memory.current")
    if not (most and used and most[0].isdigit() and used[0].isdigit()):
        return None
    stat = dict(line.split(maxsplit=1) for line in _lines(_CGROUP / "memory.stat") if " " in line)
    files = float(stat.get("inactive_file", "0")) + float(stat.get("active_file", "0"))
    return int(most[0]) - int(used[0]) + files


def _words(path: Path) -> list[str]:
    lines = _lines(path)
    return lines[0].split() if lines else []


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


@contextlib.contextmanager
def _slot(cache: Path, count: int, stop: Stop) -> Iterator[None]:
    """Hold one of the host's slots; where the disk has no locks, hold none."""
    lock = None
    try:
        folder = cache / "slots"
        folder.mkdir(parents=True, exist_ok=True)
        while lock is None and not stop.asked:
            lock = _first_free(folder, count)
            if lock is None:
                stop.sleep(_PAUSE_S)
    except (OSError, NotImplementedError):
        lock = None
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _first_free(folder: Path, count: int) -> FileLock | None:
    host = platform.node() or "host"
    for number in range(count):
        lock = FileLock(folder / f"{host}-{number}.lock", thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        return lock
    return None
