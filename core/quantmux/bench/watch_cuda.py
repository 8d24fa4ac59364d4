"""Timing on a GPU: one CUDA graph of many calls over rotated buffers, between two events."""

from __future__ import annotations

import math
import time
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.errors import LaunchError
from quantmux.runtime.failures import Failure, classify

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.bench.timing import Watch

    Call = Callable[[], Any]

GRAPH_CALLS: Final = 20
"""Least calls in one graph."""

_ROUND_US: Final = 1500.0
"""Least time of a round, so that the resolution of an event (0.5 µs) does not count."""

_MAX_REPLAYS: Final = 60
_LEAD_CYCLES: Final = 150_000
"""The GPU spins for about 0.1 ms, so that all of a round is queued before its first event."""


class GraphWatch:
    """A graph of at least `GRAPH_CALLS` calls, every copy of the buffers as often as another.

    Args:
        calls: One per copy of the buffers.
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        self._count = graph_calls(len(calls))
        _warm(calls)
        self._graph: Any = torch.cuda.CUDAGraph()
        # results are held until their copy's next turn, so that outputs are rotated as well
        self._held: list[Any] = [None] * len(calls)
        with torch.cuda.graph(self._graph):
            for i in range(self._count):
                self._held[i % len(calls)] = calls[i % len(calls)]()
        self._replays = 1
        first = self.round() * self._count
        self._replays = min(_MAX_REPLAYS, max(1, math.ceil(_ROUND_US / max(first, 1.0))))

    def round(self) -> float:
        """Give µs per call."""
        graph, replays = self._graph, self._replays

        def run() -> None:
            for _ in range(replays):
                graph.replay()

        return _between_events(run) / (self._count * replays)

    def again(self, spoil: Callable[[Any], None]) -> list[Any]:
        """Replay the graph once; give what it wrote, see `Watch.again`."""
        for result in self._held:
            spoil(result)
        self._graph.replay()
        torch.cuda.synchronize()
        return list(self._held)


class EventWatch:
    """Eager calls between two events: for what cannot be captured. Host time may count."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls = tuple(calls)
        self._count = graph_calls(len(calls))
        self._held: list[Any] = []
        _warm(calls)

    def round(self) -> float:
        """Give µs per call."""
        calls, count = self._calls, self._count
        held: list[Any] = [None] * len(calls)
        self._held = held

        def run() -> None:
            for i in range(count):
                held[i % len(calls)] = calls[i % len(calls)]()

        return _between_events(run) / count

    def again(self, spoil: Callable[[Any], None]) -> list[Any]:
        """Run all eagerly once more; see `Watch.again`."""
        for result in self._held:
            spoil(result)
        self._held = [call() for call in self._calls]
        torch.cuda.synchronize()
        return list(self._held)


def graph_calls(copies: int) -> int:
    """Give how many calls a graph over so many copies holds."""
    return math.ceil(GRAPH_CALLS / copies) * copies


def cuda_watch(calls: Sequence[Call]) -> tuple[Watch, str]:
    """Give a watch, and why it is not a graph's: "" when it is.

    Raises:
        LaunchError: The CUDA context is lost.
        Exception: The calls fail outside a capture, too.
    """
    try:
        return GraphWatch(calls), ""
    # whatever a kernel raises in a capture: it is run once more without, and told if that fails
    except Exception as error:  # noqa: BLE001
        raise_if_lost(error)
        first, *_ = str(error).splitlines() or [type(error).__name__]
        torch.cuda.synchronize()
        return EventWatch(calls), f"no CUDA graph: {first}"


def raise_if_lost(error: BaseException) -> None:
    """Raise a LaunchError for an exception after which no call of this process can succeed.

    The GPU is asked: what a failed capture says reads like a lost context and is none.
    """
    if classify(error) is Failure.POISONED and (found := _lost()):
        raise LaunchError(
            "the CUDA context is lost: nothing more can be timed in this process",
            facts=[str(error).partition("\n")[0], f"then: {found}"],
            context_poisoned=True,
        ) from error


def _lost() -> str:
    """Give what a call says that cannot fail on a GPU that is well, "" when it does not fail."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return ""
    try:
        torch.cuda.synchronize()
        torch.ones(1, device="cuda").item()
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return ""


def host_us(calls: Sequence[Call], batches: int = 9, batch: int = 10) -> float:
    """Give the host's µs per eager call: the time to queue it, the GPU being idle before."""
    found = []
    for _ in range(batches):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for i in range(batch):
            calls[i % len(calls)]()
        found.append((time.perf_counter() - start) / batch * 1e6)
    torch.cuda.synchronize()
    return median(found)


def _warm(calls: Sequence[Call]) -> None:
    # on a stream of its own, as a capture's warm-up must be
    stream: Any = torch.cuda.Stream  # torch has no types for it
    side = stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()


def _between_events(run: Callable[[], None]) -> float:
    event: Any = torch.cuda.Event  # torch has no types for it
    start, end = event(enable_timing=True), event(enable_timing=True)
    spin: Any = torch.cuda._sleep  # noqa: SLF001 - the only spin that torch offers
    spin(_LEAD_CYCLES)
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e3
