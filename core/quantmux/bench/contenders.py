"""Who is timed: every pipeline that selection would compare, and what each call of it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from quantmux.bench.gate import compare_pipeline
from quantmux.config.patterns import matches
from quantmux.dispatch.candidates import Surveyor
from quantmux.dispatch.pipeline import Pipeline
from quantmux.runtime.steps import Built, build, static_scales
from quantmux.runtime.waiting import patiently

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.bench.gate import Checked
    from quantmux.bench.materials import Materials
    from quantmux.bench.traffic import Part
    from quantmux.ops.spec import Call
    from quantmux.runtime.context import Context
    from quantmux.runtime.prepare import WeightStore


@dataclass(slots=True, eq=False)
class Contender:
    """Something to be timed on one case.

    Attributes:
        name: Kernel ids joined by an arrow, or a peer's name.
        part: What its time covers.
        calls: One per copy of the buffers.
        pipeline: What it is, None for a peer.
        checked: How it was compared with the reference.
        kind: ``kernel``, ``peer``, or ``aa`` for one that is bound a second time.
        compare: Compares a result with the reference of what the inputs hold now.
    """

    name: str
    part: Part
    calls: tuple[Callable[[], Any], ...]
    pipeline: Pipeline | None = None
    checked: str = ""
    kind: str = "kernel"
    compare: Callable[[Any], Checked] | None = None


def pipelines_of(
    config: Any,
    m: int,
    context: Context,
    device: Any,
    *,
    only: Sequence[str] = (),
) -> list[Pipeline]:
    """Give the pipelines that compete for M rows of a config, best first by the static order.

    Tiers never compete with each other, so only those of the best tier are given; of a consumer's
    producers a reference is left out where another serves, and a relayout where none is needed.

    Args:
        config: Of any op.
        m: Rows.
        context: Plugins and policy.
        device: A device that is here.
        only: Patterns of kernel ids; then every tier is given whose kernels fit.
    """
    settings = context.settings(config, device)
    found = Surveyor(config, device, settings, context.inventory(device)).survey().pipelines
    # of pipelines of the same kernels, which differ in a layout between them, selection takes the
    # first: a time of one is kept for all
    found = list({p.ids: p for p in reversed(found) if p.serves(m)}.values())[::-1]
    if only:
        return [p for p in found if any(matches(pattern, i) for pattern in only for i in p.ids)]
    if not found:
        return []
    best = min(p.tier.rank for p in found)
    groups: dict[str, list[Pipeline]] = {}
    for pipeline in found:
        if pipeline.tier.rank == best:
            groups.setdefault(pipeline.main.id, []).append(pipeline)
    return [p for same in groups.values() for p in _without_stand_ins(same)]


def _without_stand_ins(pipelines: list[Pipeline]) -> list[Pipeline]:
    fewest = min(p.relayouts for p in pipelines)
    kept = [p for p in pipelines if p.relayouts == fewest]
    real = [p for p in kept if not any(s.kernel.capability.is_reference for s in p.steps[:-1])]
    return real or kept


@dataclass(slots=True, eq=False)
class Binder:
    """Binds pipelines of one config to copies of its weights; what is bound is kept.

    Attributes:
        context: Loads the kernels.
        materials: Weights and inputs of the config.
    """

    context: Context
    materials: Materials
    _built: dict[tuple[str, ...], list[Built]] = field(default_factory=dict)

    def builts(self, pipeline: Pipeline, count: int) -> list[Built]:
        """Give the pipeline bound to the first copies.

        Raises:
            KernelFailed: A kernel of it raised.
        """
        materials = self.materials
        known = self._built.setdefault(pipeline.ids, [])
        if materials.config.op != "linear":
            if not known:
                known.append(self._build(pipeline))
            return known * count
        for store in materials.stores(count)[len(known) :]:
            known.append(self._build(pipeline, store))
        return known[:count]

    def again(self, pipeline: Pipeline, count: int) -> list[Built]:
        """Give the pipeline bound once more, to the same copies."""
        kept = self._built.pop(pipeline.ids, None)
        try:
            return self.builts(pipeline, count)
        finally:
            if kept is not None:
                self._built[pipeline.ids] = kept

    def contender(
        self, pipeline: Pipeline, inputs: Sequence[Call], *, again: bool = False
    ) -> Contender:
        """Give a pipeline's calls, one per copy of the input."""
        count = len(inputs)
        builts = (self.again if again else self.builts)(pipeline, count)
        calls = tuple(
            partial(built.run, *call.args, **call.kwargs)
            for built, call in zip(builts, inputs, strict=True)
        )
        kind = "aa" if again else "kernel"
        compare = partial(compare_pipeline, pipeline, inputs[0], self.materials)
        return Contender(str(pipeline), "pipeline", calls, pipeline, kind=kind, compare=compare)

    def gemm(self, pipeline: Pipeline, inputs: Sequence[Call]) -> Contender | None:
        """Give the calls of the consumer alone, on inputs that its producer has quantized."""
        builts = self.builts(pipeline, len(inputs))
        if builts[0].reads is None:
            return None
        quantized = self._quantized(pipeline, inputs)
        calls = tuple(partial(built.run, q) for built, q in zip(builts, quantized, strict=True))
        compare = partial(compare_pipeline, pipeline, inputs[0], self.materials)
        return Contender(pipeline.main.id, "gemm", calls, pipeline, compare=compare)

    def _build(self, pipeline: Pipeline, store: WeightStore | None = None) -> Built:
        """Build a pipeline, and wait where a library of it is being compiled."""
        device = self.materials.device
        return patiently(lambda: build(pipeline, self.context, device, store), cause=True)

    def _quantized(self, pipeline: Pipeline, inputs: Sequence[Call]) -> list[Any]:
        store = self.materials.stores(1)[0]
        head = [self._build(Pipeline((step,), pipeline.tier)).run for step in pipeline.steps[:-1]]
        config, scales = self.materials.config, {}
        if config.op == "linear" and config.scheme.activation is not None:
            scales = static_scales(
                config.scheme.activation,
                store.small("input_scale"),
                store.small("input_global_scale"),
            )
        found = []
        for call in inputs:
            q = head[0](*call.args, **scales)
            for move in head[1:]:
                q = move(q)
            found.append(q)
        return found
