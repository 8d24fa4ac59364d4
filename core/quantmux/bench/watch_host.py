"""Timing on the host: the monotonic clock around many calls over rotated buffers."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_CACHES: Final = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_USUAL: Final = 32 << 20


class HostWatch:
    """Calls in turn, as many as fill a round.

    Args:
        calls: One per copy of the buffers.
        round_us: Least time of a round.
        clock: Seconds; a test's own, or the monotonic one.
    """

    def __init__(
        self,
        calls: Sequence[Callable[[], Any]],
        *,
        round_us: float = 10_000.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._calls = tuple(calls)
        self._clock = clock
        self._next = 0
        # results are held until their copy's next turn, so that outputs are rotated as well
        self._held: list[Any] = [None] * len(self._calls)
        self._count = 1
        for call in self._calls[1:]:
            call()
        first = self.round()
        self._count = max(1, min(10_000, math.ceil(round_us / max(first, 0.01))))

    def round(self) -> float:
        """Give µs per call."""
        calls, held, count, at = self._calls, self._held, self._count, self._next
        start = self._clock()
        for i in range(at, at + count):
            held[i % len(calls)] = calls[i % len(calls)]()
        spent = self._clock() - start
        self._next = (at + count) % len(calls)
        return spent / count * 1e6

    def again(self, spoil: Callable[[Any], None]) -> list[Any]:
        """Run all once more; see `Watch.again`."""
        for result in self._held:
            spoil(result)
        self._held = [call() for call in self._calls]
        return list(self._held)


def last_cache_bytes() -> int:
    """Give the size of the host's last cache; 32 MiB where the system does not say."""
    sizes = [_bytes(file) for file in _CACHES.glob("index*/size")]
    return max(sizes, default=0) or _USUAL


def _bytes(file: Path) -> int:
    try:
        text = file.read_text().strip()
    except OSError:
        return 0
    digits, unit = text[:-1], text[-1:]
    return int(digits) * _UNITS[unit] if digits.isdecimal() and unit in _UNITS else 0
