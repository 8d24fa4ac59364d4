"""One run: ceilings, the experiments one after another, and the report of all."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from quantmux.bench.ceilings import measure_ceilings
from quantmux.bench.run import versions
from quantmux.bench.seeds.known import experiments_of
from quantmux.bench.seeds.report import SeedReport, Told
from quantmux.bench.seeds.stage import stage_for
from quantmux.bench.seeds.warm import warm_line
from quantmux.bench.watch_cuda import raise_if_lost
from quantmux.registry.guard import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.bench.seeds.experiment import Experiment
    from quantmux.bench.seeds.rows import SeedRow
    from quantmux.bench.seeds.stage import Stage
    from quantmux.capability.device import DeviceProfile
    from quantmux.runtime.context import Context


@dataclass(frozen=True, slots=True)
class SeedPlan:
    """What to run.

    Attributes:
        device: A device that is here; on one without CUDA only the plumbing is tried.
        only: Names of experiments, none for all.
        quick: A few cases of each, short rounds.
        seed: Of weights and inputs.
        command: Kept in the report.
    """

    device: DeviceProfile
    only: tuple[str, ...] = ()
    quick: bool = False
    seed: int = 0
    command: str = ""


def run_seeds(
    plan: SeedPlan,
    context: Context,
    begin: Callable[[int], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
) -> SeedReport:
    """Run the experiments and give the report; a variant that fails is a row, not an exception.

    Args:
        plan: What to run.
        context: Plugins and policy.
        begin: Told once how many steps there are.
        tell: Told what begins, at every step.

    Raises:
        ConfigError: An experiment is not known.
        LaunchError: The CUDA context is lost.
    """
    chosen = experiments_of(plan.only)
    stage = stage_for(context, plan.device, quick=plan.quick, seed=plan.seed)
    begin(1 + sum(experiment.steps(stage) for experiment in chosen))
    tell("ceilings")
    quickly = plan.quick or stage.is_tiny
    stage = replace(stage, ceilings=measure_ceilings(plan.device, quick=quickly))
    return run_experiments(chosen, stage, plan, tell)


def run_experiments(
    chosen: Sequence[Experiment],
    stage: Stage,
    plan: SeedPlan,
    tell: Callable[[str], None] = lambda _: None,
) -> SeedReport:
    """Run some experiments on a stage; see `run_seeds`."""
    report = SeedReport(
        device=plan.device.name,
        title=plan.device.title,
        date=datetime.now(UTC).date().isoformat(),
        versions=versions(plan.device),
        ceilings=dict(stage.ceilings),
        size=stage.size,
        protocol={
            "rounds": stage.effort.rounds,
            "rotate_mb": stage.effort.rotate_bytes / 1e6,
            "cache_mb": stage.cache_bytes / 1e6,
            "max_copies": stage.effort.max_copies,
            "seed": stage.effort.seed,
            "quick": plan.quick,
        },
        command=plan.command,
    )
    for experiment in chosen:
        name, begun = experiment.about.name, time.monotonic()
        try:
            rows = experiment.run(stage, lambda text, name=name: tell(f"{name}: {text}"))  # type: ignore[misc]
            remarks = (*experiment.remarks(rows, stage), *_warm(rows, stage))
        # what one experiment did not foresee costs it alone: the others' minutes are not lost
        except Exception as error:  # noqa: BLE001
            raise_if_lost(error)
            report.not_run[name] = describe(error)
            continue
        report.rows += rows
        report.told[name] = Told(experiment.about, remarks, time.monotonic() - begun)
    return report


def _warm(rows: Sequence[SeedRow], stage: Stage) -> tuple[str, ...]:
    if not stage.is_cuda:  # its figures mean nothing either way
        return ()
    line = warm_line(rows, stage.effort.rotate_bytes / 1e6, stage.cache_bytes / 1e6)
    return (line,) if line else ()
