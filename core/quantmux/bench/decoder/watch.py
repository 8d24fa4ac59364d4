"""Timing whole steps: eagerly between two events, as a CUDA graph, or on the host."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    Step = Callable[[], torch.Tensor]

_ROUND_US: Final = 4000.0
"""Least time of a round: an event's resolution (0.5 µs) and the queueing do not count in it."""

_MOST: Final = 64
_LEAD_CYCLES: Final = 400_000
"""The GPU spins for about 0.2 ms, so that graphs are queued before their first event."""

_WARM_CALLS: Final = 3


class GraphStep:
    """A step captured once and replayed; between replays nothing is done.

    A step reads more weights than the cache holds, so each replay finds the first ones cold.

    Args:
        step: Warm: captured as it is.
        round_us: Least time of a round.
    """

    def __init__(self, step: Step, round_us: float = _ROUND_US) -> None:
        _warm(step)
        self._graph: Any = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self.result = step()
        self._count = 1
        self._count = _times(self.round(), round_us)

    def round(self) -> float:
        """Give µs per step."""
        replay, count = self._graph.replay, self._count

        def run() -> None:
            for _ in range(count):
                replay()

        return _between_events(run, lead=True) / count

    def replay(self) -> torch.Tensor:
        """Replay once over a spoiled result; give it."""
        self.result.fill_(torch.nan)
        self._graph.replay()
        torch.cuda.synchronize()
        return self.result


class EagerStep:
    """Steps called one after the other: host or GPU, whichever is slower, is what is timed."""

    def __init__(self, step: Step, round_us: float = _ROUND_US) -> None:
        self._step = step
        self._count = 1
        _warm(step)
        self._count = _times(self.round(), round_us)

    def round(self) -> float:
        """Give µs per step."""
        step, count = self._step, self._count

        def run() -> None:
            for _ in range(count):
                step()

        return _between_events(run, lead=False) / count


class HostStep:
    """Steps on a host, by its clock."""

    def __init__(self, step: Step, round_us: float = _ROUND_US) -> None:
        self._step = step
        self._count = 1
        step()
        self._count = _times(self.round(), round_us)

    def round(self) -> float:
        """Give µs per step."""
        step, count = self._step, self._count
        start = time.perf_counter()
        for _ in range(count):
            step()
        return (time.perf_counter() - start) / count * 1e6


def _times(us: float, round_us: float) -> int:
    return min(_MOST, max(1, math.ceil(round_us / max(us, 1.0))))


def _warm(step: Step) -> None:
    # on a stream of its own, as a capture's warm-up must be
    stream: Any = torch.cuda.Stream  # torch has no types for it
    side = stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_CALLS):
            step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()


def _between_events(run: Callable[[], None], *, lead: bool) -> float:
    event: Any = torch.cuda.Event  # torch has no types for it
    start, end = event(enable_timing=True), event(enable_timing=True)
    torch.cuda.synchronize()
    if lead:
        spin: Any = torch.cuda._sleep  # noqa: SLF001 - the only spin that torch offers
        spin(_LEAD_CYCLES)
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e3
