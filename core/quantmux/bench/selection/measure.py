"""Timing the grid in one run: all that could be taken, in turns; who is far behind drops out early.

A cell costs some 0.3 s, most of it the host's, so the grid is affordable: who is more than
`SCREEN` times as slow as the fastest after two rounds keeps the time of those two.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from quantmux.bench.ceilings import measure_ceilings
from quantmux.bench.contenders import Binder, Contender
from quantmux.bench.materials import Materials
from quantmux.bench.recheck import recheck
from quantmux.bench.rows import Report, Row
from quantmux.bench.run import versions
from quantmux.bench.selection.entrants import Entrants
from quantmux.bench.selection.referee import Referee
from quantmux.bench.selection.warm import warm_grid
from quantmux.bench.timing import Timing, Watch, interleave
from quantmux.bench.traffic import work
from quantmux.bench.watch_cuda import cuda_watch, raise_if_lost
from quantmux.bench.watch_host import HostWatch
from quantmux.dispatch.tier import Tier
from quantmux.registry.digest import kernel_digest
from quantmux.registry.guard import describe
from quantmux.runtime.failures import Failure, classify

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.bench.effort import Effort
    from quantmux.bench.rows import BenchCase
    from quantmux.capability.device import DeviceProfile
    from quantmux.dispatch.pipeline import Pipeline
    from quantmux.ops.spec import Call
    from quantmux.runtime.context import Context

SCREEN: Final = 1.25
"""Who is this much slower than the fastest after the first rounds takes no more turns."""

SCREEN_ROUNDS: Final = 2

ALONE: Final = "alone"
"""Kind of a row of a pipeline that selection does not compare: without others' quantizers."""


@dataclass(frozen=True, slots=True)
class GridPlan:
    """What is measured.

    Attributes:
        cases: Neighbours of one config share its weights.
        device: A device that is here.
        effort: How much; its rounds are those of who stays near the fastest.
        seconds: What has not begun by then, compilation included, is left out and named; None
            takes the time it takes.
        with_alone: Also time what a backend does without another's quantizer.
        quick: Ceilings are only looked at.
        command: Kept in the report.
    """

    cases: tuple[BenchCase, ...]
    device: DeviceProfile
    effort: Effort
    seconds: float | None = None
    with_alone: bool = True
    quick: bool = False
    command: str = ""


def measure_grid(
    plan: GridPlan, context: Context, tell: Callable[[str], None] = lambda _: None
) -> Report:
    """Time every pipeline of every cell; one that disagrees with the reference has no time.

    Kinds of rows: ``kernel`` for what selection compares, ``aa`` for its pick bound a second time,
    ``alone`` for a backend's consumer behind its own quantizer, or torch's.

    Args:
        plan: What to measure.
        context: Plugins and policy.
        tell: Called with the name of every cell before it is begun.

    Raises:
        LaunchError: The CUDA context is lost.
    """
    begun = time.monotonic()
    device = plan.device
    for spec in context.registry.kernels:
        # of the sources as they are before anything runs; a recorder looks whether they still are
        kernel_digest(spec, context.registry.folder(spec.backend))
    left_out: list[str] = []
    report = Report(
        device=device.name,
        title=device.title,
        date=datetime.now(UTC).date().isoformat(),
        versions=versions(device),
        ceilings=measure_ceilings(device, quick=True),
        protocol={
            "rounds": plan.effort.rounds,
            "screen": SCREEN,
            "screen_rounds": SCREEN_ROUNDS,
            "rotate_mb": plan.effort.rotate_bytes / 1e6,
            "max_copies": plan.effort.max_copies,
            "seed": plan.effort.seed,
            "quick": plan.quick,
            "left_out": left_out,
        },
        command=plan.command,
    )
    if device.is_cuda:
        tell("compiling")
        report.missing = warm_grid(plan.cases, context, device)
        report.protocol["compile_seconds"] = round(time.monotonic() - begun, 1)
    for config, same in groupby(plan.cases, key=lambda case: case.config):
        materials = Materials(config, device, plan.effort.seed)
        binder = Binder(context, materials)
        entrants = Entrants(config, context, device)
        for case in same:
            if plan.seconds is not None and time.monotonic() - begun > plan.seconds:
                left_out.append(case.name)
                continue
            tell(case.name)
            # of one cell at a time: its graphs hold their results, and those of the largest are GBs
            report.rows += _Cell(plan, case, binder, entrants, report.ceilings).rows()
    report.protocol["seconds"] = round(time.monotonic() - begun, 1)
    return report


class _Cell:
    """One cell being measured."""

    def __init__(
        self,
        plan: GridPlan,
        case: BenchCase,
        binder: Binder,
        entrants: Entrants,
        ceilings: dict[str, float],
    ) -> None:
        self._plan = plan
        self._case = case
        self._binder = binder
        self._entrants = entrants
        self._ceilings = ceilings
        self._failed: list[Row] = []
        self._watches: dict[str, Watch] = {}
        self._named: dict[str, Contender] = {}
        self._methods: dict[str, str] = {}
        least = work(case.config, case.m).moved
        self._copies = plan.effort.copies(least)
        self._rotated = self._copies * least

    def rows(self) -> list[Row]:
        case = self._case
        try:
            inputs = self._binder.materials.inputs(case.m, self._copies)
        except (RuntimeError, MemoryError) as error:
            if classify(error) is not Failure.OUT_OF_MEMORY:
                raise
            return [self._failure("the inputs", (), None, "kernel", describe(error))]
        for pipeline in self._entrants.compared(case.m):
            self._enter(pipeline, inputs)
        timings = self._turns(tuple(self._watches), SCREEN_ROUNDS)
        if self._plan.with_alone:
            added = [self._enter(p, inputs, ALONE) for p in self._lonely(timings)]
            timings |= self._turns([name for name in added if name], SCREEN_ROUNDS)
        pick = self._entrants.pick(case.m)
        twin = None if pick is None else self._enter(pick, inputs, "aa")
        timings |= self._turns(self._near(timings, pick, twin), self._plan.effort.rounds)
        self._recheck(inputs)
        noise = self._noise(timings, pick, twin)
        rows = [self._row(name, timings[name], noise) for name in self._named if name in timings]
        return [*rows, *self._failed]

    def _enter(
        self, pipeline: Pipeline, inputs: Sequence[Call], kind: str = "kernel"
    ) -> str | None:
        """Bind a pipeline and make its watch; gives its name, None if it cannot be timed."""
        name = f"{kind} {pipeline}"
        try:
            made = self._binder.contender(pipeline, inputs, again=kind == "aa")
            made.kind = kind
            if self._plan.device.is_cuda:
                self._watches[name], note = cuda_watch(made.calls)
            else:
                round_us = self._plan.effort.round_us
                self._watches[name], note = HostWatch(made.calls, round_us=round_us), ""
        # a plugin's code may raise anything; it costs that pipeline only
        except Exception as error:  # noqa: BLE001
            raise_if_lost(error)
            reason = describe(error.__cause__ or error)
            self._failed.append(self._failure(str(pipeline), pipeline.ids, pipeline, kind, reason))
            return None
        self._named[name], self._methods[name] = made, note
        return name

    def _lonely(self, timings: dict[str, Timing]) -> list[Pipeline]:
        """Give, of each backend's fastest consumer, the pipeline without others' quantizers."""
        fastest: dict[str, tuple[float, Pipeline]] = {}
        for name, timing in timings.items():
            pipeline = self._named[name].pipeline
            if pipeline is None:
                continue
            known = fastest.get(pipeline.main.backend)
            if known is None or timing.us < known[0]:
                fastest[pipeline.main.backend] = timing.us, pipeline
        found = [self._entrants.alone(p, self._case.m) for _, p in fastest.values()]
        return [p for p in found if p is not None and f"kernel {p}" not in self._named]

    def _near(
        self, timings: dict[str, Timing], pick: Pipeline | None, twin: str | None
    ) -> list[str]:
        """Give those that take all turns: near the fastest, what selection takes, and its twin."""
        least = min((timing.us for timing in timings.values()), default=0.0)
        found = [name for name, timing in timings.items() if timing.us <= least * SCREEN]
        if pick is not None:
            found += [name for name in (f"kernel {pick}",) if name in self._watches]
        return list(dict.fromkeys([*found, *([twin] if twin else [])]))

    def _turns(self, names: Sequence[str], rounds: int) -> dict[str, Timing]:
        def failed(name: str, error: Exception) -> None:
            raise_if_lost(error)
            self._drop(name, f"in its rounds: {describe(error)}")

        watches = {name: self._watches[name] for name in names if name in self._watches}
        return interleave(watches, rounds, failed) if watches else {}

    def _recheck(self, inputs: list[Call]) -> None:
        materials, config = self._binder.materials, self._case.config
        materials.renew(inputs, self._case.m)
        if config.op != "linear":
            raise TypeError(f"the grid is of linears, found {config.op}")
        referee = Referee(config, inputs[0].args[0], materials)
        for name, contender in list(self._named.items()):
            pipeline = contender.pipeline
            if contender.kind == "aa" or pipeline is None:
                continue
            try:
                compare = partial(referee.compare, pipeline)
                checked = recheck(self._watches[name], compare, inputs)
                reason = "" if checked.ok else checked.reason
                contender.checked = checked.how
            # likewise
            except Exception as error:  # noqa: BLE001
                raise_if_lost(error)
                reason = f"after its rounds: {describe(error)}"
            if reason:
                self._drop(name, reason)

    def _drop(self, name: str, reason: str) -> None:
        """Take one out, with what was bound a second time of it."""
        self._watches.pop(name, None)
        contender = self._named.pop(name, None)
        if contender is None:
            return
        if contender.kind == "kernel":
            self._named.pop(f"aa {contender.name}", None)
        pipeline = contender.pipeline
        ids = pipeline.ids if pipeline else ()
        self._failed.append(self._failure(contender.name, ids, pipeline, contender.kind, reason))

    def _noise(
        self, timings: dict[str, Timing], pick: Pipeline | None, twin: str | None
    ) -> float | None:
        name = f"kernel {pick}"
        if twin is None or twin not in self._named or name not in self._named:
            return None
        one, two = timings[name].us, timings[twin].us
        return abs(one - two) / min(one, two)

    def _blank(self, name: str, ids: tuple[str, ...], pipeline: Pipeline | None, kind: str) -> Row:
        case = self._case
        n, k = case.shape
        return Row(
            op=case.config.op,
            case=case.name,
            kernel=name,
            kind=kind,
            scheme=case.scheme,
            n=n,
            k=k,
            m=case.m,
            tier=str(pipeline.tier) if pipeline else None,
            pipeline=ids,
        )

    def _failure(
        self, name: str, ids: tuple[str, ...], pipeline: Pipeline | None, kind: str, reason: str
    ) -> Row:
        return replace(self._blank(name, ids, pipeline, kind), status="failed", reason=reason)

    def _row(self, name: str, timing: Timing, noise: float | None) -> Row:
        contender, case, us = self._named[name], self._case, timing.us
        pipeline = contender.pipeline
        tier = pipeline.tier if pipeline else Tier.NATIVE
        todo = work(case.config, case.m, native=tier is Tier.NATIVE)
        floor = todo.floor_us(self._ceilings)
        note = [self._methods[name], contender.checked]
        if len(timing.samples) == SCREEN_ROUNDS != self._plan.effort.rounds:
            note.append(f"{SCREEN_ROUNDS} rounds: far behind")
        is_cuda = self._plan.device.is_cuda
        method = "host" if not is_cuda else "events" if self._methods[name] else "graph"
        ids: Any = pipeline.ids if pipeline else ()
        return replace(
            self._blank(contender.name, ids, pipeline, contender.kind),
            us=us,
            us_min=timing.us_min,
            us_max=timing.us_max,
            noise=timing.noise,
            gb_s=todo.moved / us * 1e-3,
            tflops=todo.flops / us * 1e-6,
            pct_of_ceiling=None if floor is None else 100.0 * floor / us,
            aa_noise=noise,
            copies=self._copies,
            rotated_mb=self._rotated / 1e6,
            cold=self._rotated >= self._plan.effort.rotate_bytes,
            method=method,
            note="; ".join(part for part in note if part),
        )


__all__ = ["ALONE", "SCREEN", "SCREEN_ROUNDS", "GridPlan", "measure_grid"]
