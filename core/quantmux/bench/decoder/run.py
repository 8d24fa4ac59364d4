"""One run of the decoder step: build, check, time in turns, and hold against the oracle."""

from __future__ import annotations

import gc
import re
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import geometric_mean
from typing import TYPE_CHECKING, Final

import torch

from quantmux.bench.ceilings import measure_ceilings
from quantmux.bench.decoder.check import Judge
from quantmux.bench.decoder.modes import FUSED, GRAPH, Modes
from quantmux.bench.decoder.oracle import time_linears
from quantmux.bench.decoder.rows import DecoderReport, StepRow, oracle_sums
from quantmux.bench.decoder.shapes import Gqa
from quantmux.bench.decoder.state import draw_state
from quantmux.bench.decoder.variants import AGAIN, BF16, SELECTION, Builder, warm
from quantmux.bench.decoder.weights import DrawnWeights
from quantmux.bench.run import versions
from quantmux.bench.timing import interleave
from quantmux.bench.watch_cuda import raise_if_lost
from quantmux.errors import ConfigError
from quantmux.registry.guard import describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux.bench.decoder.model import Form
    from quantmux.bench.decoder.modes import Entry
    from quantmux.bench.decoder.shapes import DecoderShape
    from quantmux.bench.decoder.state import State, StepCase
    from quantmux.bench.decoder.variants import Variant
    from quantmux.bench.effort import Effort
    from quantmux.bench.timing import Timed, Timing
    from quantmux.capability.device import DeviceProfile
    from quantmux.compile import FusionReport
    from quantmux.runtime.context import Context

_LAYER: Final = re.compile(r"blocks\.\d+")

BEST: Final = "best"
"""Stands for the single backend whose linears are the fastest of this run."""


@dataclass(frozen=True, slots=True)
class DecoderPlan:
    """What to measure.

    Attributes:
        shape: The decoder.
        scheme: Of its linears.
        form: How it is put together.
        cases: Phases and numbers of rows.
        device: A device that is here.
        effort: How much: `Effort.rounds` of linears, and twice as many of steps: whoever takes its
            turn after a lighter one finds a faster clock, and the other way round.
        kv_length: Tokens in the cache of each sequence at decode.
        variants: Names, none for bf16, every backend and the selection.
        compile_for: Variants that are also compiled; `BEST` may be among them.
        backend: Of torch.compile.
        with_oracle: Time every linear's pipelines.
        command: Kept in the report.
    """

    shape: DecoderShape
    scheme: str
    form: Form
    cases: tuple[StepCase, ...]
    device: DeviceProfile
    effort: Effort
    kv_length: int = 2048
    variants: tuple[str, ...] = ()
    compile_for: tuple[str, ...] = (BF16, BEST, SELECTION)
    backend: str = "inductor"
    with_oracle: bool = True
    command: str = ""

    @property
    def ms(self) -> tuple[int, ...]:
        """Numbers of rows, each once."""
        return tuple(dict.fromkeys(case.m for case in self.cases))

    @property
    def step_rounds(self) -> int:
        """Turns of every step."""
        return 2 * self.effort.rounds + 1

    def without_compile(self) -> DecoderPlan:
        """Give the same plan without torch.compile."""
        return replace(self, compile_for=())


def run_decoder(
    plan: DecoderPlan, context: Context, tell: Callable[[str], None] = lambda _: None
) -> DecoderReport:
    """Measure a plan; a variant that disagrees or fails is a row that says so.

    An interrupt (Ctrl-C) while steps are timed ends the run; the report has what was done.

    Args:
        plan: What to measure.
        context: Plugins and policy.
        tell: Called with a line before every step.

    Raises:
        ConfigError: A variant is not known, or the scheme needs a calibration.
        LaunchError: The CUDA context is lost.
        NoKernelError: Nothing can serve a linear.
    """
    device, clock = plan.device, _Clock(tell)
    tell = clock.begin
    where = torch.device(device.torch_name)
    with torch.no_grad():
        tell("weights")
        weights = DrawnWeights(
            plan.shape, plan.scheme, where, merged=plan.form.merged, seed=plan.effort.seed
        )
        builder = Builder(plan.shape, plan.form, weights, device, context)
        report = _report(plan, weights)
        settings = builder.settings
        report.policy = {"order": list(settings.order), "deny": list(settings.deny)}
        variants = _variants(plan, builder, report, tell)
        tell("ceilings")
        report.ceilings = measure_ceilings(device, quick=plan.effort.rounds < 5)
        if plan.with_oracle:
            _oracle(plan, builder, variants, report, tell)
        names = _to_compile(plan, report)
        modes = Modes(
            context,
            names,
            fuse_for=names - {BF16},  # who is compared has the pass, or none has
            on_cuda=device.is_cuda,
            backend=plan.backend,
            round_us=plan.effort.round_us,
        )
        try:
            _steps(plan, builder, variants, modes, report, tell)
        except KeyboardInterrupt:  # what was measured until now took minutes
            report.interrupted = True
    _close(report, plan, modes, variants)
    report.protocol["seconds"] = clock.end()
    return report


def _steps(
    plan: DecoderPlan,
    builder: Builder,
    variants: list[Variant],
    modes: Modes,
    report: DecoderReport,
    tell: Callable[[str], None],
) -> None:
    """Time the steps of every case; a case is in the report when all of it was timed."""
    exact, reference = builder.exact(), builder.reference()
    where, kv_length, seed = builder.weights.device, plan.kv_length, plan.effort.seed
    for case in plan.cases:
        tell(str(case))
        state = draw_state(plan.shape, case, plan.form, where, kv_length=kv_length, seed=seed)
        judge = Judge.of(state.x, exact(*state.args), reference(*state.args))
        entries = [e for v in variants for e in _entries(modes, v, state, judge)]
        report.rows += _rows(plan, case, entries)
        report.noise[str(case)] = judge.noise
        del state, judge, entries
        gc.collect()  # graphs hold memory of their own


class _Clock:
    """Passes on what begins, and keeps what each took: whoever waits wants to know for what."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._spent: dict[str, float] = {}
        self._last = ("", time.perf_counter())

    def begin(self, what: str) -> None:
        """Tell what begins."""
        self._turn(what)
        self._tell(what)

    def end(self) -> dict[str, float]:
        """Give seconds of everything that was told."""
        self._turn("")
        return {what: round(seconds, 2) for what, seconds in self._spent.items() if what}

    def _turn(self, what: str) -> None:
        now, (before, since) = time.perf_counter(), self._last
        self._spent[before] = self._spent.get(before, 0.0) + now - since
        self._last = (what, now)


def _entries(modes: Modes, variant: Variant, state: State, judge: Judge) -> list[Entry]:
    found = list(modes.entries(variant, state, judge))
    if variant.name == AGAIN:  # it is here for the noise of graphs alone
        return [entry for entry in found if entry.mode == GRAPH or not state.x.is_cuda]
    return found


def _variants(
    plan: DecoderPlan,
    builder: Builder,
    report: DecoderReport,
    tell: Callable[[str], None],
) -> list[Variant]:
    backends = builder.backends()
    known = (BF16, *backends, SELECTION)
    asked = plan.variants or known
    for name in (*asked, *plan.compile_for):
        if name not in known and (name in asked or name != BEST):
            raise ConfigError(
                f'no variant "{name}" of the decoder step',
                facts=["variants: " + " ".join(known)],
                code="usage",
            )
    made: list[Variant] = []
    for name in known:
        if name not in asked and name != SELECTION:
            continue
        tell(f"bind {name}")
        if name == BF16:
            made.append(builder.bf16())
        elif name == SELECTION:
            made += [builder.selection(), builder.selection(AGAIN)]
            made += [] if plan.form.merged else [builder.shared()]
        else:
            denied = builder.denied(name)
            alone = None if denied else builder.alone(name, plan.ms)
            if denied:
                report.denied[name] = denied
            elif alone is None:
                report.skipped[name] = "no kernel of it that the policy leaves can serve here"
            else:
                made.append(alone)
    for variant in made:
        if variant.name == BF16:
            continue
        tell(f"warm up {variant.name}")
        warm(variant, plan.ms)
        report.served[variant.name] = variant.served(plan.ms)
        report.helped[variant.name] = {f"{n}x{k}": by for (n, k), by in variant.helped.items()}
    return made


def _oracle(
    plan: DecoderPlan,
    builder: Builder,
    variants: list[Variant],
    report: DecoderReport,
    tell: Callable[[str], None],
) -> None:
    chosen = next(v for v in variants if v.name == SELECTION)
    report.oracle, rows = time_linears(
        chosen,
        plan.shape.counted(merged=plan.form.merged),
        plan.ms,
        context=builder.context,
        device=plan.device,
        effort=plan.effort,
        ceilings=report.ceilings,
        tell=tell,
    )
    for row in rows:
        if row.status != "ok":
            report.skipped[f"{row.kernel} on {row.case}"] = row.reason


def _to_compile(plan: DecoderPlan, report: DecoderReport) -> frozenset[str]:
    """Give the variants to compile, with the best single backend in place of `BEST`."""
    names = set(plan.compile_for) - {BEST}
    best = best_backend(report)
    if BEST in plan.compile_for and best is not None:
        names.add(best)
    return frozenset(names)


def best_backend(report: DecoderReport) -> str | None:
    """Give the backend that is the fastest alone over all M of the run; None without any.

    Judged by its linears: pipelines that are all its own, and where no backend has those for every
    linear, by its products.
    """
    sums = oracle_sums(report.oracle)
    for times in ([total.alone for total in sums], [total.by_backend for total in sums]):
        names = set.intersection(*(set(one) for one in times)) if times else set()
        means = {
            name: geometric_mean([one[name] for one in times])
            for name in sorted(names & set(report.served))
        }
        if means:
            return min(means, key=lambda name: means[name])
    return None


def _rows(plan: DecoderPlan, case: StepCase, entries: list[Entry]) -> list[StepRow]:
    watches: dict[str, Timed] = {
        f"{e.variant.name}|{e.mode}": e.watch for e in entries if e.watch is not None
    }
    late: dict[str, str] = {}

    def failed(who: str, error: Exception) -> None:
        raise_if_lost(error)
        late[who] = f"in its rounds: {describe(error)}"

    timings = interleave(watches, plan.step_rounds, failed, to_and_fro=True)
    name = f"{plan.shape.name} {plan.scheme} {case}"
    noise = _noise(timings)
    rows = []
    for entry in entries:
        row = StepRow(
            case=name,
            phase=case.phase,
            m=case.m,
            kernel=entry.variant.name,
            mode=entry.mode,
            kind=entry.variant.kind,
            distance=entry.checks[0].value if entry.checks else None,
            checked="; ".join(str(check) for check in entry.checks),
            aa_noise=noise,
        )
        who = f"{entry.variant.name}|{entry.mode}"
        timing = timings.get(who)
        if timing is None:
            reason = entry.reason or late.get(who, "")
            rows.append(replace(row, status="failed", reason=reason))
            continue
        peer = timings.get(f"{BF16}|{_plain_mode(entry.mode)}")
        rows.append(
            replace(
                row,
                us=timing.us,
                us_min=timing.us_min,
                us_max=timing.us_max,
                noise=timing.noise,
                tokens_per_s=case.m / timing.us * 1e6,
                peer_us=None if peer is None else peer.us,
                ratio=None if peer is None else peer.us / timing.us,
            )
        )
    return rows


def _plain_mode(mode: str) -> str:
    """Give the mode in which bf16 stands beside one: it has nothing to fuse."""
    return mode.replace(FUSED, "compiled")


def _noise(timings: dict[str, Timing]) -> float | None:
    for mode in (GRAPH, "eager"):
        one, two = (timings.get(f"{name}|{mode}") for name in (SELECTION, AGAIN))
        if one is not None and two is not None:
            return abs(one.us - two.us) / min(one.us, two.us)
    return None


def _report(plan: DecoderPlan, weights: DrawnWeights) -> DecoderReport:
    device, shape, form = plan.device, plan.shape, plan.form
    return DecoderReport(
        device=device.name,
        title=device.title,
        date=datetime.now(UTC).date().isoformat(),
        versions=versions(device),
        model=shape.name,
        scheme=plan.scheme,
        step={
            "layers": len(shape.mlps),
            "of_layers": shape.depth,
            "mlps": list(shape.mlps),
            "hidden": shape.hidden,
            "linears": {
                f"{n}x{k}": count for (n, k), count in shape.counted(merged=form.merged).items()
            },
            "weight_mb": weights.bytes / 1e6,
            "merged_qkv": form.merged,
            "attention": _attention(plan),
            "kv_length": plan.kv_length,
            "left_out": list(shape.left_out),
        },
        means_nothing=not device.is_cuda,
        protocol={
            "rounds": plan.effort.rounds,
            "step_rounds": plan.step_rounds,
            "rotate_mb": plan.effort.rotate_bytes / 1e6,
            "seed": plan.effort.seed,
            "backend": plan.backend,
        },
        command=plan.command,
    )


def _attention(plan: DecoderPlan) -> str:
    if isinstance(plan.shape.attention, Gqa) and plan.form.attends:
        return f"SDPA, at decode over {plan.kv_length} tokens of each sequence"
    return "left out: a token reads itself and a null key"


def _alike(found: FusionReport) -> FusionReport:
    """Give the report with all layers under one name, so that sites alike are one line."""
    sites = (
        replace(site, into=tuple(_LAYER.sub("blocks.*", name) for name in site.into))
        for site in found.sites
    )
    return replace(found, sites=tuple(sites))


def _close(report: DecoderReport, plan: DecoderPlan, modes: Modes, variants: list[Variant]) -> None:
    """Add what is known at the end: what was compiled, and what serves by now."""
    report.rows.sort(key=lambda row: (row.phase, row.m))
    report.protocol["compile_seconds"] = modes.compile_seconds
    fused = {name: fusion.report(quiet=True) for name, fusion in modes.fusions.items()}
    report.protocol["fused"] = {
        name: {"graphs": found.graphs, "taken": len(found.taken), "refused": len(found.refused)}
        for name, found in fused.items()
    }
    if SELECTION in fused:
        report.compile_report = fused[SELECTION].to_dict()
        report.compile_text = str(_alike(fused[SELECTION]))
    for variant in variants:
        if variant.name != BF16:  # a fallback while it ran would be another kernel than was told
            report.served[variant.name] = variant.served(plan.ms)
