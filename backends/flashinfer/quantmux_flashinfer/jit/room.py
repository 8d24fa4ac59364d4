"""How many compilers may run at once: as many as there are cores, and memory for.

FlashInfer's ninja starts one for every core, each of up to 8 GiB, for every process that wants a
module: that is how its builds end in the hands of the out-of-memory killer. So a module asks first,
and is told how many of its units may be compiled side by side: a share of what this process's
others leave, and of the host's slots (lock files: eight ranks that start at once are one build).
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

    from quantmux_flashinfer.jit.process import Stop

GIB: Final = 1024**3

SPARE_GIB: Final = 4.0
"""Memory that is left to everybody else."""

_PAUSE_S: Final = 0.2
_TOGETHER_S: Final = 0.1
"""Those that are asked for together come within it, from a thread each."""
_CGROUP: Final = Path("/sys/fs/cgroup")


class Room:
    """What the compilers of this process may take together."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: list[tuple[int, float]] = []
        self._waiting: list[float] = []
        self._budget = 0.0

    @contextlib.contextmanager
    def take(
        self,
        units: int,
        gib: float,
        slots: Path,
        *,
        length: float = 0.0,
        jobs: int | None = None,
        stop: Stop,
    ) -> Iterator[int]:
        """Wait for room, hold it, and give how many compilers may run. Asked to stop, it gives 1.

        Of those that wait, the longest goes first: what is begun last decides when all is done.

        Args:
            units: Files that could be compiled side by side.
            gib: Memory of one compiler.
            slots: Folder of lock files that all processes of this host share.
            length: About the seconds that it takes.
            jobs: At most so many compilers in this process, None for all cores.
            stop: Ends the wait.
        """
        cores = min(jobs or cores_here(), cores_here())
        granted = 0
        with self._changed:
            self._waiting.append(length)
        try:
            stop.sleep(_TOGETHER_S)
            while not (granted := self._enter(units, gib, cores, length)) and not stop.asked:
                with self._changed:
                    self._changed.wait(_PAUSE_S)
        finally:
            with self._changed:
                self._waiting.remove(length)
                self._changed.notify_all()
        share = granted, gib
        try:
            with _slots(slots, max(1, granted), stop) as count:
                yield count
        finally:
            with self._changed:
                if granted:
                    self._held.remove(share)
                self._changed.notify_all()

    def _enter(self, units: int, gib: float, cores: int, length: float) -> int:
        """Give how many compilers a module gets now, 0 when it has to wait."""
        with self._changed:
            if any(other > length for other in self._waiting):
                return 0
            if not self._held:
                self._budget = available_gib() - SPARE_GIB
            left = min(self._budget - self._taken(), available_gib() - SPARE_GIB)
            free = cores - sum(count for count, _ in self._held)
            # those that wait get a core each, or the module with most units would run alone
            share = max(1, free - (len(self._waiting) - 1))
            count = min(units, free, share, int(left / max(gib, 0.05)))
            if count < 1 and not self._held:
                count = 1  # one always goes: no build of ours holds what it would wait for
            if count >= 1:
                self._held.append((count, gib))
            return max(0, count)

    def _taken(self) -> float:
        return sum(count * gib for count, gib in self._held)


ROOM: Final = Room()
"""The one of this process."""


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
def _slots(folder: Path, wanted: int, stop: Stop) -> Iterator[int]:
    """Hold as many of the host's slots as are free, at least one; gives how many compilers may run.

    Where the disk has no locks, none is held.
    """
    held: list[FileLock] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while not held and not stop.asked:
            held = _free(folder, cores_here(), wanted)
            if not held:
                stop.sleep(_PAUSE_S)
        count = len(held)
    except (OSError, NotImplementedError):
        count = wanted
    try:
        yield max(1, count)
    finally:
        for lock in held:
            lock.release()


def _free(folder: Path, count: int, wanted: int) -> list[FileLock]:
    host = platform.node() or "host"
    held: list[FileLock] = []
    for number in range(count):
        if len(held) == wanted:
            break
        lock = FileLock(folder / f"{host}-{number}.lock", thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        held.append(lock)
    return held
