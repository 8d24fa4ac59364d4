"""Timing one experiment: make, gate, take turns, look again; kernels are counted in the end.

The same protocol as `bench.harness`, over variants that are not pipelines.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Final

from quantmux.bench.gate import Checked
from quantmux.bench.recheck import recheck
from quantmux.bench.seeds.experiment import Made, Refused
from quantmux.bench.seeds.ratios import with_ratios
from quantmux.bench.seeds.rows import SeedRow
from quantmux.bench.timing import Timing, Watch, interleave
from quantmux.bench.watch_cuda import cuda_watch, host_us, raise_if_lost
from quantmux.bench.watch_host import HostWatch
from quantmux.registry.guard import describe
from quantmux.runtime.steps import KernelFailed
from quantmux.testing.launches import launches

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from quantmux.bench.seeds.experiment import Experiment, Prepared, SeedCase, Variant
    from quantmux.bench.seeds.stage import Stage

_LOG: Final = logging.getLogger(__name__)

_HOST_ROUNDS: Final = 3
"""Turns of every variant at being queued; what held one up does not count."""

_COUNTED: Final = 2
"""Calls whose kernels are counted."""

_NAME: Final = 120
"""Letters of a kernel's name that are kept: its template's arguments follow."""


def measure(
    experiment: Experiment, stage: Stage, tell: Callable[[str], None] = lambda _: None
) -> list[SeedRow]:
    """Give the rows of all cases of an experiment, in their order.

    Times are taken of all cases first. Kernels are counted after that, over inputs that are made
    anew: a profiler that has been on is not in the times.

    Raises:
        LaunchError: The CUDA context is lost.
    """
    cases = experiment.cases(stage)
    found: list[tuple[SeedCase, list[SeedRow]]] = []
    for case in cases:
        tell(case.name)
        found.append((case, _Timed(experiment, case, stage).rows()))
    rows: list[SeedRow] = []
    for case, timed in found:
        counted = timed
        if stage.is_cuda and case.is_counted:
            counted = _with_counts(experiment, case, stage, timed)
        rows += [replace(row, extra=dict(experiment.enrich(case, row))) for row in counted]
    return rows


@dataclass(slots=True, eq=False)
class _Turn:
    """A variant that takes its turns."""

    variant: Variant
    made: Made
    kind: str
    watch: Watch
    note: str


class _Timed:
    """One case being timed."""

    def __init__(self, experiment: Experiment, case: SeedCase, stage: Stage) -> None:
        self._name = experiment.about.name
        self._experiment = experiment
        self._case = case
        self._stage = stage
        self._lost: list[SeedRow] = []

    def rows(self) -> list[SeedRow]:
        """Give its rows, in the order of the variants; those without a time last."""
        try:
            prepared = self._experiment.prepare(self._case, self._stage)
        # an experiment calls plugins' code when it binds; it costs this case only
        except Exception as error:  # noqa: BLE001
            raise_if_lost(error)
            return [self._failed("the case", "before", _reason(error))]
        turns = self._turns(prepared)

        def failed(name: str, error: Exception) -> None:
            raise_if_lost(error)
            self._drop(turns, name, f"in its rounds: {describe(error)}")

        watches = {name: turn.watch for name, turn in turns.items()}
        timings = interleave(watches, self._stage.effort.rounds, failed)
        self._recheck(turns, prepared)
        noise, hosts = _aa_noise(turns, timings), self._hosts(turns)
        rows = [
            replace(self._row(turn, timings[name], prepared, noise), host_us=hosts.get(name))
            for name, turn in turns.items()
        ]
        return with_ratios([*rows, *self._lost])

    def _turns(self, prepared: Prepared) -> dict[str, _Turn]:
        turns: dict[str, _Turn] = {}
        again: Variant | None = None
        for variant in prepared.variants:
            turn = self._turn(variant, variant.role)
            if turn is None:
                continue
            turns[variant.name] = turn
            if variant.role == "ours" and again is None:
                again = variant
        if again is not None:
            second = self._turn(again, "aa")
            if second is not None:
                turns[f"aa {again.name}"] = second
        return turns

    def _turn(self, variant: Variant, kind: str) -> _Turn | None:
        """Make a variant, hold it against the reference, and give what times it."""
        try:
            made = variant.make()
            if isinstance(made, Refused):
                self._lost.append(self._blank(variant.name, kind, "refused", made.reason))
                return None
            checked = made.compare(made.calls[0]())
            if not checked.ok:
                self._lost.append(self._failed(variant.name, kind, checked.reason))
                return None
            watch, note = self._watch(made)
        # a plugin's or torch's own code may raise anything; it costs that variant only
        except Exception as error:  # noqa: BLE001
            raise_if_lost(error)
            self._lost.append(self._failed(variant.name, kind, _reason(error)))
            return None
        note = "; ".join(part for part in (made.note, note, checked.how) if part)
        return _Turn(variant, made, kind, watch, note)

    def _watch(self, made: Made) -> tuple[Watch, str]:
        if self._stage.is_cuda:
            return cuda_watch(made.calls)
        return HostWatch(made.calls, round_us=self._stage.effort.round_us), ""

    def _recheck(self, turns: dict[str, _Turn], prepared: Prepared) -> None:
        """Run what was timed once more, on numbers that no variant has seen, and compare."""
        if prepared.renew is not None:
            prepared.renew()
        for name, turn in list(turns.items()):
            try:
                checked = recheck(turn.watch, turn.made.compare, prepared.inputs)
            # likewise
            except Exception as error:  # noqa: BLE001
                raise_if_lost(error)
                checked = Checked(False, reason=f"after its rounds: {describe(error)}")
            if not checked.ok:
                self._drop(turns, name, checked.reason)

    def _hosts(self, turns: dict[str, _Turn]) -> dict[str, float]:
        """Give what the host needs to queue an eager call of each, in turns as well."""
        if not self._stage.is_cuda:
            return {}
        found: dict[str, list[float]] = {name: [] for name in turns}
        for _ in range(_HOST_ROUNDS):
            for name in tuple(found):
                try:
                    found[name].append(host_us(turns[name].made.calls, batches=5))
                # likewise; it has been timed and looked at, and loses this number only
                except Exception as error:  # noqa: BLE001
                    raise_if_lost(error)
                    _LOG.warning("no host time of %s on %s: %s", name, self._case.name, error)
                    del found[name]
        return {name: median(times) for name, times in found.items()}

    def _drop(self, turns: dict[str, _Turn], name: str, reason: str) -> None:
        turn = turns.pop(name)
        self._lost.append(self._failed(turn.variant.name, turn.kind, reason))

    def _row(self, turn: _Turn, timing: Timing, prepared: Prepared, noise: float | None) -> SeedRow:
        stage, us = self._stage, timing.us
        moved = prepared.bytes_per_call
        rate = moved / us * 1e-3 if moved else None
        ceiling = stage.ceilings.get("copy_gb_s")
        is_eager = stage.is_cuda and "no CUDA graph" in turn.note
        return replace(
            self._blank(turn.variant.name, turn.kind),
            runs=turn.made.kernel,
            us=us,
            us_min=timing.us_min,
            us_max=timing.us_max,
            noise=timing.noise,
            gb_s=rate,
            pct_of_ceiling=100.0 * rate / ceiling if rate and ceiling else None,
            aa_noise=noise,
            method="host" if not stage.is_cuda else "events" if is_eager else "graph",
            note=turn.note,
            copies=prepared.copies,
            rotated_mb=prepared.copies * moved / 1e6,
            cold=bool(moved) and prepared.copies * moved >= stage.effort.rotate_bytes,
        )

    def _blank(self, name: str, kind: str, status: str = "ok", reason: str = "") -> SeedRow:
        case = self._case
        return SeedRow(
            experiment=self._name,
            case=case.name,
            kernel=name,
            kind=kind,
            facts=dict(case.facts),
            is_control=case.is_control,
            status=status,
            reason=reason,
        )

    def _failed(self, name: str, kind: str, reason: str) -> SeedRow:
        return self._blank(name, kind, "failed", reason)


def _with_counts(
    experiment: Experiment, case: SeedCase, stage: Stage, rows: list[SeedRow]
) -> list[SeedRow]:
    """Give the rows with what every variant launches, made once more over one copy."""
    one = replace(stage, effort=replace(stage.effort, max_copies=1))
    timed = {row.kernel for row in rows if row.us is not None}
    counted: dict[str, tuple[float, dict[str, float]]] = {}
    try:
        for variant in experiment.prepare(case, one).variants:
            made = variant.make() if variant.name in timed else None
            if isinstance(made, Made):
                counted[variant.name] = _count(made)
    # what was timed and could not be counted keeps its time
    except Exception as error:  # noqa: BLE001
        raise_if_lost(error)
        _LOG.warning("kernels were not counted on %s: %s", case.name, describe(error))
    return [
        replace(row, launches=counted[row.kernel][0], launched=counted[row.kernel][1])
        if row.us is not None and row.kernel in counted
        else row
        for row in rows
    ]


def _count(made: Made) -> tuple[float, dict[str, float]]:
    """Give what one call launches, in all and by name; no whole number where calls differ."""
    found = launches(made.calls[0], warm=2, calls=_COUNTED).calls
    names = Counter(launch.name[:_NAME] for call in found for launch in call)
    total = sum(names.values())
    return _each(total, len(found)), {n: _each(count, len(found)) for n, count in names.items()}


def _each(count: int, calls: int) -> float:
    return count / calls if count % calls else count // calls


def _aa_noise(turns: Mapping[str, _Turn], timings: Mapping[str, Timing]) -> float | None:
    for name, turn in turns.items():
        if turn.kind == "aa" and turn.variant.name in turns:
            one, two = timings[turn.variant.name].us, timings[name].us
            return abs(one - two) / min(one, two)
    return None


def _reason(error: Exception) -> str:
    if isinstance(error, KernelFailed):
        return f"{error.kernel.id} failed to {error.doing}: {describe(error.error)}"
    return describe(error)
