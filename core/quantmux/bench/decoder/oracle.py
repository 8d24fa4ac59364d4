"""The oracle: for every linear of the step, the fastest pipeline of this very run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quantmux.bench.contenders import pipelines_of
from quantmux.bench.decoder.rows import OracleLine
from quantmux.bench.harness import Bench
from quantmux.bench.rows import BenchCase

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from quantmux.bench.decoder.variants import Variant
    from quantmux.bench.effort import Effort
    from quantmux.bench.rows import Row
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.runtime.context import Context


def time_linears(
    chosen: Variant,
    counts: Mapping[tuple[int, int], int],
    ms: Sequence[int],
    *,
    context: Context,
    device: DeviceProfile,
    effort: Effort,
    ceilings: Mapping[str, float],
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[list[OracleLine], list[Row]]:
    """Time every pipeline that competes for every linear, and compare with what is bound.

    Args:
        chosen: The selection's decoder.
        counts: N×K → how often it stands in the step.
        ms: Numbers of rows.
        context: Plugins and policy.
        device: A device that is here.
        effort: How much is measured.
        ceilings: Of this process.
        tell: Called with the name of every case.

    Returns:
        A line per linear and M, and the rows of the harness; pipelines that failed are among
        these only.
    """
    layers = {(x.out_features, x.in_features): x for x in chosen.linears().values()}
    cases = [BenchCase(layer.config, m) for layer in layers.values() for m in ms]
    bench = Bench(context=context, device=device, effort=effort, ceilings=ceilings)
    rows = list(bench.run(cases, tell))
    lines = []
    for (n, k), layer in layers.items():
        bound = layer.bind()
        for m in ms:
            timed = {
                row.pipeline: row
                for row in rows
                if (row.n, row.k, row.m, row.kind) == (n, k, m, "kernel") and row.us is not None
            }
            if timed:
                picked = bound.pipeline_for(m)
                forms = _forms(layer.config, m, context, device)
                line = _line(timed, picked.ids, forms.get(picked.ids, ""), forms)
                lines.append(
                    OracleLine(n=n, k=k, m=m, count=counts[n, k], picked=str(picked), **line)
                )
    return lines, rows


def _forms(
    config: LinearConfig, m: int, context: Context, device: DeviceProfile
) -> dict[tuple[str, ...], str]:
    """Give pipeline → the weight form that it reads."""
    return {p.ids: p.weight_layout for p in pipelines_of(config, m, context, device)}


def _line(
    timed: Mapping[tuple[str, ...], Row],
    picked: tuple[str, ...],
    form: str,
    forms: Mapping[tuple[str, ...], str],
) -> dict[str, Any]:
    """Give the times of an `OracleLine`."""
    times = {ids: row.us for ids, row in timed.items() if row.us is not None}
    best = min(times, key=lambda ids: times[ids])
    here = {ids: us for ids, us in times.items() if forms.get(ids) == form} or times
    best_here = min(here, key=lambda ids: here[ids])
    by_backend: dict[str, float] = {}
    alone: dict[str, float] = {}
    for ids, us in times.items():
        backends = {name.partition("/")[0] for name in ids}
        backend = ids[-1].partition("/")[0]
        by_backend[backend] = min(us, by_backend.get(backend, us))
        if len(backends) == 1:
            alone[backend] = min(us, alone.get(backend, us))
    return {
        "picked_us": times.get(picked),
        "best": " -> ".join(best),
        "best_us": times[best],
        "best_here": " -> ".join(best_here),
        "best_here_us": here[best_here],
        "aa_noise": next(iter(timed.values())).aa_noise,
        "by_backend": by_backend,
        "alone": alone,
    }
