"""warmup: everything that a plan or a model needs is compiled before it serves, in parallel.

A kernel is compiled per config, not per layer: the sixty layers of a model are a handful of units.
Units run in threads of this process, since compilers spend their time outside of Python, and what
they make is then in this process, ready to be launched. For a GPU that is not here the kernels
compile ahead into the compiler's own cache on disk, where a later process finds the code.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import torch

from quantmux.dispatch.plan import Plan
from quantmux.dispatch.ranges import PROBE_MS
from quantmux.dispatch.selection import Selection
from quantmux.errors import BuildError, ConfigError
from quantmux.registry.guard import guarded
from quantmux.runtime.capture import refuse_to_warm
from quantmux.runtime.context import default_context
from quantmux.runtime.events import one_line
from quantmux.runtime.waiting import patiently

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.runtime.context import Context

Progress = Callable[[int, int, str], None]
"""``progress(done, of, kernel id)``, called from the thread that called `warmup`."""

MOST_JOBS: Final = 16
"""Threads when nobody says how many, at most: a tenth of a compilation holds Python's lock."""


@runtime_checkable
class Warmable(Protocol):
    """A layer: `quantmux.Linear`, or what `quantmux.runtime.binding.bind` gives."""

    @property
    def selection(self) -> Selection:
        """The kernels chosen for it."""
        ...

    def warmup(self, ms: Sequence[int]) -> None:
        """Bind, and compile what calls with these M need."""
        ...


@dataclass(frozen=True, slots=True)
class WarmupUnit:
    """One kernel for one config.

    Attributes:
        kernel: Its id.
        config: What it is bound to.
        device: Where.
        ms: Numbers of rows that were asked for and that it serves.
        seconds: How long it took; next to nothing when it was compiled before.
        is_ahead: It was compiled for a GPU that is not here.
        error: Why it could not be compiled, one line; "" when it was.
        skipped: Why there was nothing to do, one line; "" when there was.
    """

    kernel: str
    config: LayerConfig
    device: DeviceProfile
    ms: tuple[int, ...]
    seconds: float = 0.0
    is_ahead: bool = False
    error: str = ""
    skipped: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Give the unit as JSON-ready data."""
        return {
            "kernel": self.kernel,
            "config": self.config.model_dump(mode="json"),
            "device": self.device.name,
            "ms": list(self.ms),
            "seconds": round(self.seconds, 3),
            "ahead": self.is_ahead,
            "error": self.error,
            "skipped": self.skipped,
        }


@dataclass(frozen=True, slots=True)
class WarmupReport:
    """What was compiled.

    Attributes:
        units: In the order in which the plan or the model needs them.
        layers: Layers that were bound and called once per M.
        seconds: Wall time of it all.
    """

    units: tuple[WarmupUnit, ...]
    layers: int
    seconds: float

    @property
    def failed(self) -> tuple[WarmupUnit, ...]:
        """Units that did not compile; a layer takes another kernel in their place."""
        return tuple(unit for unit in self.units if unit.error)

    def to_dict(self) -> dict[str, Any]:
        """Give the report as JSON-ready data."""
        return {
            "units": [unit.to_dict() for unit in self.units],
            "layers": self.layers,
            "seconds": round(self.seconds, 3),
        }


def warmup(
    what: Plan | Selection | Warmable | torch.nn.Module | Iterable[Any],
    *,
    ms: Iterable[int] = PROBE_MS,
    jobs: int | None = None,
    progress: Progress | None = None,
    context: Context | None = None,
) -> WarmupReport:
    """Compile all that calls with these numbers of rows need, so that nothing compiles in a call.

    A kernel that does not compile is no error here: it is in the report, and a layer that was to
    take it takes another, as it does at its first call. Libraries that are being compiled in the
    background are waited for, and layers that were bound without them are bound anew.

    Args:
        what: A plan or a selection: what its kernels need. A model, a layer, or several: that, and
            then each layer is bound and called once per M, ready for capture in a CUDA graph.
        ms: Numbers of rows. Of a range of M without any of them, its first is taken.
        jobs: Threads; None takes one per CPU, at most 16.
        progress: Hears of every unit that is done.
        context: Loads the kernels; None takes the process's.

    Raises:
        ConfigError: ``what`` is none of these, ``jobs`` is below 1, or an M is.
        LaunchError: A CUDA graph is being captured.
        NoKernelError: Nothing can serve one of the layers.
    """
    refuse_to_warm("what is given to quantmux.warmup")
    begun = time.perf_counter()
    rows = _checked(ms, jobs)
    selections, layers = _taken_apart(what)
    loads = default_context() if context is None else context
    tasks = _tasks(selections, rows)
    units = _run(tasks, loads, _threads(jobs, len(tasks)), progress)
    for layer in layers:
        layer.warmup(rows)
    return WarmupReport(units, len(layers), time.perf_counter() - begun)


@dataclass(frozen=True, slots=True)
class _Task:
    kernel: KernelSpec
    config: LayerConfig
    device: DeviceProfile
    ms: tuple[int, ...]


def _checked(ms: Iterable[int], jobs: int | None) -> tuple[int, ...]:
    rows = tuple(sorted(set(ms)))
    if not rows or rows[0] < 1:
        raise ConfigError("warmup asks for numbers of rows, each at least 1", facts=[f"ms: {rows}"])
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs is a number of threads, at least 1, found {jobs}")
    return rows


def _threads(jobs: int | None, tasks: int) -> int:
    most = jobs if jobs is not None else min(os.cpu_count() or 1, MOST_JOBS)
    return max(1, min(most, tasks))


def _taken_apart(what: Any) -> tuple[list[Selection], list[Warmable]]:
    """Give the selections in it, and the layers that can be bound."""
    if isinstance(what, Plan):
        return list(what.selections.values()), []
    if isinstance(what, Selection):
        return [what], []
    layers = _layers(what)
    if not layers:
        raise ConfigError(
            f"there is nothing to warm up in a {type(what).__name__}",
            facts=["a plan, a selection, a model with quantmux.Linear in it, or such layers"],
            hint="quantmux.plan(checkpoint) gives a plan, quantmux.quantize_(model, …) a model",
        )
    return [layer.selection for layer in layers], layers


def _layers(what: Any) -> list[Warmable]:
    if isinstance(what, torch.nn.Module):
        return [module for module in what.modules() if isinstance(module, Warmable)]
    if isinstance(what, Warmable):
        return [what]
    if isinstance(what, Iterable) and not isinstance(what, str | bytes | torch.Tensor):
        return [layer for item in what for layer in _layers(item)]
    return []


def _tasks(selections: Iterable[Selection], ms: tuple[int, ...]) -> list[_Task]:
    """Give every kernel with every config once, with all M of its ranges."""
    found: dict[tuple[str, LayerConfig, DeviceProfile], tuple[KernelSpec, set[int]]] = {}
    for selection in selections:
        for choice in selection.ranges:
            served = [m for m in ms if selection.range_for(m) is choice]
            for step in choice.pipeline.steps:
                key = (step.kernel.id, step.config, selection.device)
                _, rows = found.setdefault(key, (step.kernel, set()))
                rows.update(served or [choice.m_min])
    return [
        _Task(spec, config, device, tuple(sorted(rows)))
        for (_, config, device), (spec, rows) in found.items()
    ]


def _run(
    tasks: list[_Task], context: Context, jobs: int, progress: Progress | None
) -> tuple[WarmupUnit, ...]:
    if not tasks:
        return ()
    with ThreadPoolExecutor(jobs, "quantmux-warmup") as pool:
        places = {pool.submit(_do, task, context): place for place, task in enumerate(tasks)}
        units: dict[int, WarmupUnit] = {}
        try:
            for future in as_completed(places):
                unit = units[places[future]] = future.result()
                if progress is not None:
                    progress(len(units), len(tasks), unit.kernel)
        except BaseException:
            # Ctrl-C, or the caller's progress raised: what has not begun need not
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return tuple(units[place] for place in range(len(tasks)))


def _do(task: _Task, context: Context) -> WarmupUnit:
    device = task.device
    is_ahead = device.is_cuda and not device.is_present
    begun = time.perf_counter()
    with _current(device):
        outcome = guarded(lambda: (_ahead if is_ahead else _here)(task, context))
    seconds = time.perf_counter() - begun
    error, skipped = "", outcome.value or ""
    if outcome.error is not None:
        why = one_line(outcome.error)
        is_bare = isinstance(outcome.error, BuildError) and outcome.error.code == "no_compiler"
        error, skipped = ("", why) if is_bare else (why, "")
    return WarmupUnit(
        task.kernel.id, task.config, device, task.ms, seconds, is_ahead, error, skipped
    )


def _here(task: _Task, context: Context) -> str:
    kernel = context.load(task.kernel)
    patiently(lambda: kernel.warmup(task.config, task.ms))
    return ""


def _ahead(task: _Task, context: Context) -> str:
    method = getattr(context.load(task.kernel), "compile_for", None)
    if method is None:
        return "it has no code of its own to compile ahead"
    method(task.config, task.device.arch)
    return ""


def _current(device: DeviceProfile) -> AbstractContextManager[Any]:
    """Make the device the current one of this thread."""
    if device.is_cuda and device.is_present:
        return torch.cuda.device(device.torch_name)
    return nullcontext()


__all__ = ["PROBE_MS", "Progress", "Warmable", "WarmupReport", "WarmupUnit", "warmup"]
