"""How many workers a machine bears, and how much memory each may hold."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

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
