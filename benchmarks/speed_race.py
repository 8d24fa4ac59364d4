"""Who of ours competes on a case of the table, and its compilation ahead of the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from quantmux.bench.contenders import Binder, Contender, pipelines_of
from quantmux.bench.gate import Checked, check_pipeline
from quantmux.bench.harness import Entry

if TYPE_CHECKING:
    from speed_sections import Section

    from quantmux.bench.rows import BenchCase
    from quantmux.bench.traffic import Part
    from quantmux.dispatch.pipeline import Pipeline
    from quantmux.ops.spec import Call

WITHOUT_PDL = ", PDL off"
"""Ends the names of rows of kernels launched without programmatic dependence."""

_PDL = "; PDL"
"""Ends the note of a row whose launches have programmatic dependence."""


class Switch(Protocol):
    """Sees which launches use programmatic dependence, and does without."""

    def uses(self, bound: Contender) -> bool:
        """Tell whether its calls launch with programmatic dependence; one may be run."""
        ...

    def without(
        self, bound: Contender, bind_again: Callable[[], Contender | str]
    ) -> Contender | str:
        """Give what was bound without it: its calls changed, or bound once more."""
        ...


class Race:
    """Chooses for `Bench.choose`: every kernel of ours once, as consumer alone where it reads a
    quantized x, each also without programmatic dependence, and the first bound a second time.

    Args:
        section: Whose kernels.
        pdl: The switch.
        backends: Whose kernels are ours, the table's own first.
        gate: Hold each against the reference first; only a run that times nothing need not.
    """

    def __init__(
        self, section: Section, pdl: Switch, backends: Sequence[str], *, gate: bool = True
    ) -> None:
        self._section = section
        self._pdl = pdl
        self._backends = backends
        self._gate = gate

    def __call__(self, case: BenchCase, binder: Binder, inputs: Sequence[Call]) -> Iterator[Entry]:
        for number, pipeline in enumerate(self.pipelines(case, binder)):
            alone = self._alone(pipeline)
            name = pipeline.main.id
            part: Part = "gemm" if alone else "pipeline"
            bound: list[Contender] = []

            def first(
                pipeline: Pipeline = pipeline, bound: list[Contender] = bound
            ) -> Contender | str:
                made = self._bound(pipeline, binder, inputs)
                if isinstance(made, Contender):
                    bound.append(made)
                return made

            yield Entry(name, part, first)
            if not bound:
                continue
            if self._section.twins and _PDL in bound[0].checked:
                other = Binder(binder.context, binder.materials)  # this one keeps what it bound
                again = partial(self._bound, pipeline, other, inputs)
                yield Entry(name + WITHOUT_PDL, part, partial(self._without, bound[0], again))
            if number == 0:
                yield Entry(name, part, partial(self._again, pipeline, binder, inputs))

    def pipelines(self, case: BenchCase, binder: Binder) -> list[Pipeline]:
        """Give one pipeline for each of our kernels of the best tier, producers of ours first."""
        found = pipelines_of(
            case.config, case.m, binder.context, binder.materials.device, only=self._section.kernels
        )
        # another tier computes other numbers: weight-only is no rival of the asked scheme
        best = min((p.tier.rank for p in found), default=0)
        found = [p for p in found if p.main.backend in self._backends and p.tier.rank == best]
        found.sort(
            key=lambda p: (
                p.relayouts,
                sum(k.partition("/")[0] not in self._backends for k in p.ids),
            )
        )
        each = {p.main.id: p for p in reversed(found)}.values()
        # the one that is taken stands first: it is also the one that is bound twice
        selection = binder.context.select(case.config, binder.materials.device)
        taken = selection.pipeline_for(case.m)
        return sorted(each, key=lambda p: taken is None or p.main.id != taken.main.id)

    def _alone(self, pipeline: Pipeline) -> bool:
        """Tell whether the consumer alone is timed."""
        return len(pipeline.steps) > 1 and not self._section.whole

    def _is_foreign(self, kernel: str) -> bool:
        return kernel.partition("/")[0] not in self._backends

    def _bound(self, pipeline: Pipeline, binder: Binder, inputs: Sequence[Call]) -> Contender | str:
        whole = binder.contender(pipeline, inputs)
        checked = Checked(True, "not compared")
        if self._gate:
            checked = check_pipeline(whole, inputs[0], binder.materials)
        if not checked.ok:
            return checked.reason
        made = whole
        if self._alone(pipeline):
            consumer = binder.gemm(pipeline, inputs)
            if consumer is None:
                return "it does not read a quantized x"
            made = consumer
        made.name = pipeline.main.id
        made.checked = checked.how
        if self._pdl.uses(made):
            made.checked += _PDL
        return made

    def _again(self, pipeline: Pipeline, binder: Binder, inputs: Sequence[Call]) -> Contender | str:
        made = self._bound(pipeline, binder, inputs)
        if isinstance(made, Contender):
            made.kind = "aa"
        return made

    def _without(
        self, contender: Contender, again: Callable[[], Contender | str]
    ) -> Contender | str:
        made = self._pdl.without(contender, again)
        if isinstance(made, Contender):
            made = replace(
                made,
                name=contender.name + WITHOUT_PDL,
                checked=contender.checked.replace(_PDL, ""),
            )
        return made
