"""launches: what one call puts on the GPU, counted and named by the profiler.

The profiler loses records now and then, most of all the first time a process uses it. So every
call is fenced by a kernel that spins for a cycle: a reading with fewer fences than were launched
is thrown away, and a count stands only when two readings agree.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Literal

from quantmux.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Kind = Literal["kernel", "memcpy", "memset"]

_FENCE: Final = "spin_kernel"
"""Part of the name of the kernel behind ``torch.cuda._sleep``."""

_MOST_READINGS: Final = 6


@dataclass(frozen=True, slots=True)
class Launch:
    """One thing that ran on the GPU.

    Attributes:
        name: As the profiler names it: of a kernel its function, with C++ arguments if it has some.
        kind: What it is.
    """

    name: str
    kind: Kind = "kernel"

    def __str__(self) -> str:
        """Give it on one line."""
        return f"{self.kind:<6}  {self.name}"


@dataclass(frozen=True, slots=True)
class Launches:
    """What some calls of one function put on the GPU.

    Attributes:
        calls: For every call what ran, in the order in which it began.
    """

    calls: tuple[tuple[Launch, ...], ...]

    @property
    def of_call(self) -> tuple[Launch, ...]:
        """What one call puts there; where calls differ, the one that puts the most."""
        return max(self.calls, key=len)

    @property
    def is_steady(self) -> bool:
        """Tell whether all calls put the same there."""
        return len(set(self.calls)) == 1

    @property
    def count(self) -> int:
        """How many kernels, copies and fills one call puts there."""
        return len(self.of_call)

    @property
    def kernels(self) -> int:
        """How many of them are kernels."""
        return self._of("kernel")

    @property
    def memcpys(self) -> int:
        """How many are copies by the driver (cudaMemcpyAsync, memcpy nodes of a graph)."""
        return self._of("memcpy")

    @property
    def memsets(self) -> int:
        """How many are fills by the driver (cudaMemsetAsync, memset nodes of a graph)."""
        return self._of("memset")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of what one call puts there, in order."""
        return tuple(launch.name for launch in self.of_call)

    def __str__(self) -> str:
        """Give the count on a line, then each launch on one of its own."""
        first = f"{_counted(self.count, 'launch', 'es')} per call"
        parts = (
            _counted(number, kind)
            for number, kind in (
                (self.kernels, "kernel"),
                (self.memcpys, "memcpy"),
                (self.memsets, "memset"),
            )
            if number
        )
        if self.count:
            first += f": {', '.join(parts)}"
        if not self.is_steady:
            first += f" (the {len(self.calls)} calls differ: {[len(call) for call in self.calls]})"
        return "\n".join([first, *(f"  {launch}" for launch in self.of_call)])

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON-ready data."""
        return {
            "count": self.count,
            "kernels": self.kernels,
            "memcpys": self.memcpys,
            "memsets": self.memsets,
            "steady": self.is_steady,
            "names": list(self.names),
            "per_call": [len(call) for call in self.calls],
        }

    def _of(self, kind: Kind) -> int:
        return sum(launch.kind == kind for launch in self.of_call)


def _counted(number: int, what: str, plural: str = "s") -> str:
    return f"{number} {what}{'' if number == 1 else plural}"


def launches(call: Callable[[], Any], *, warm: int = 1, calls: int = 2) -> Launches:
    """Count and name what one call puts on the GPU: kernels, copies and fills.

    A replay of a CUDA graph is a call like any other: ``launches(graph.replay)`` gives the nodes
    that ran. The GPU is waited for between calls.

    Args:
        call: Called without arguments, on the current stream or another.
        warm: Calls before the first that counts: what compiles or allocates once does so there.
        calls: Calls that count, per reading.

    Raises:
        RunError: There is no GPU (code ``no_gpu``), or the profiler never said the same twice
            (code ``profiler``).
    """
    import torch

    if not torch.cuda.is_available():
        raise RunError(
            "launches are counted on a GPU, and there is none here",
            facts={"torch": torch.__version__, "torch.cuda.is_available()": False},
            hint="run it on a machine with a GPU; on a CPU nothing is launched",
            code="no_gpu",
        )
    for _ in range(warm):
        call()
    torch.cuda.synchronize()
    seen: list[str] = []
    before: Launches | None = None
    for _ in range(_MOST_READINGS):
        records = _recorded(call, calls)
        read = _between_fences(records, calls)
        if read is None:
            fences = sum(_is_fence(launch) for launch in records)
            seen.append(f"{len(records)} records with {fences} of {calls + 1} fences")
            continue
        if read == before:
            return read
        before = read
        seen.append(f"{[len(one) for one in read.calls]} launches")
    raise RunError(
        "the profiler never counted the same twice",
        facts=seen,
        hint="look whether the call does the same each time, and whether something else uses the "
        "GPU's profiler in this process (nsys, another torch.profiler)",
        code="profiler",
    )


def _recorded(call: Callable[[], Any], calls: int) -> list[Launch]:
    """Give everything that ran on the GPU during some calls, fences included, in order."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    fence: Any = torch.cuda._sleep  # noqa: SLF001 - the only kernel that nobody else launches
    with warnings.catch_warnings():
        # torch explains its profiler once per process; where warnings are errors that looked, on
        # some runs, like a kernel that fails
        warnings.filterwarnings("ignore", message=".*Profiler clears events", category=UserWarning)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
            fence(1)
            torch.cuda.synchronize()
            for _ in range(calls):
                call()
                torch.cuda.synchronize()
                fence(1)
                torch.cuda.synchronize()
        return launches_of(recorded.events() or ())


def launches_of(events: Iterable[Any]) -> list[Launch]:
    """Give what ran on the GPU among the events of a torch.profiler, in the order of beginning.

    Ranges that a program marks (``record_function``) appear on the GPU's time line too; they are
    no launches.
    """
    mine = [
        event
        for event in events
        if str(event.device_type).endswith("CUDA")
        and not getattr(event, "is_user_annotation", False)
    ]
    mine.sort(key=lambda event: event.time_range.start)
    return [Launch(event.name, kind_of(event.name)) for event in mine]


def kind_of(name: str) -> Kind:
    """Tell a copy and a fill of the driver from a kernel, by the names that CUPTI's records have.

    A kernel that copies is a kernel: its name is a function's, the driver's begin ``Memcpy HtoD (``
    and ``Memset (``.
    """
    if name.startswith("Memcpy "):
        return "memcpy"
    return "memset" if name.startswith("Memset ") else "kernel"


def _between_fences(records: Sequence[Launch], calls: int) -> Launches | None:
    """Give what ran in each call; None where the record is not whole."""
    fences = [place for place, launch in enumerate(records) if _is_fence(launch)]
    if len(fences) != calls + 1 or fences[0] != 0 or fences[-1] != len(records) - 1:
        return None
    calls_of = (tuple(records[begin + 1 : end]) for begin, end in pairwise(fences))
    return Launches(tuple(calls_of))


def _is_fence(launch: Launch) -> bool:
    return _FENCE in launch.name


__all__ = ["Launch", "Launches", "kind_of", "launches", "launches_of"]
