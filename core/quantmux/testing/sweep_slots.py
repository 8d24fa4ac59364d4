"""How many workers a machine bears, which GPU each sees, and how much memory it may hold."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantmux.capability.detect import detect_devices

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantmux.capability.device import DeviceProfile

_SHARE: Final = 0.8
_LEAST: Final = 4 * 2**30
_CGROUP: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def default_jobs() -> int:
    """Give the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_limit(workers: int, gib: float | None) -> int | None:
    """Give the bytes that one worker may hold; None where the machine does not say what it has.

    Args:
        workers: How many there are.
        gib: What the user said, GiB; None is a share of the machine's, at least 4 GiB: torch
            alone with a GPU holds more than two.
    """
    if gib is not None:
        return int(gib * 2**30)
    total = machine_memory()
    return None if total is None else max(_LEAST, int(total * _SHARE) // workers)


def machine_memory() -> int | None:
    """Give the bytes of memory of this machine or, where that is less, of its container."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
    for file in _CGROUP:
        try:
            total = min(total, int(file.read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue  # "max", or another system
    return total


def worker_slots(
    device: DeviceProfile, jobs: int | None, *, only: bool
) -> tuple[Mapping[str, str], ...]:
    """Give the environment of each worker: a share of threads, and on GPUs one device each.

    Args:
        device: The device, of this machine.
        jobs: Number of workers; None is one per GPU of the device's model, or per core.
        only: This GPU and no other.
    """
    if device.is_cuda:
        # GPUs of another model would give answers of another device
        alike = [device] if only else [d for d in detect_devices() if d.name == device.name]
        count = jobs or len(alike)
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = shown.split(",") if shown else None
        picked = [alike[i % len(alike)].index or 0 for i in range(count)]
        share = _threads(count)
        return tuple(
            {**share, "CUDA_VISIBLE_DEVICES": names[i].strip() if names else str(i)} for i in picked
        )
    count = jobs or default_jobs()
    return (_threads(count),) * count


def _threads(workers: int) -> dict[str, str]:
    """Give each worker its share of the cores.

    On GPUs too: self-tests of libraries and comparisons of small cases run on the host, where
    fifteen pools of sixteen threads keep each other waiting.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, default_jobs() // workers))}
