"""Calls of ``quantmux::fused_linear``: per range of M one producer, and consumers fed by it.

What fails is served as if nothing were fused: the prologue alone, then each linear from a plain x,
which has fallbacks of its own.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from quantmux.dispatch.ranges import PROBE_MS
from quantmux.errors import LaunchError, NotBuiltError
from quantmux.runtime.binding import bind_producer
from quantmux.runtime.calls import guarded, route_of
from quantmux.runtime.capture import capture_question, not_warmed
from quantmux.runtime.events import FallbackEvent, one_line
from quantmux.runtime.failures import is_capturing
from quantmux.runtime.results import result_problem
from quantmux.runtime.route import refuse
from quantmux.runtime.self_check import examiner
from quantmux.runtime.steps import KernelFailed, build, static_scales
from quantmux.runtime.traced.legality import differences, segments
from quantmux.runtime.traced.linear import as_promised
from quantmux.runtime.traced.scales import SeenScales

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.config import LayerConfig, QuantizeConfig
    from quantmux.config.policy import Policy
    from quantmux.dispatch.pipeline import Pipeline
    from quantmux.dispatch.selection import Selection
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux.runtime.binding import BoundLinear, BoundProducer
    from quantmux.runtime.events import Stage
    from quantmux.runtime.prepare import WeightStore
    from quantmux.runtime.route import Route
    from quantmux.runtime.steps import Built, Call
    from quantmux.runtime.traced.keys import LinearProgram
    from quantmux.runtime.traced.legality import Consumer, Group, Segment
    from quantmux.runtime.traced.prologue import Prologue

_UNBOUNDED: Final = 1 << 62


class FusedCalls:
    """Serves one fused op with the weights of some bound linears.

    Attributes:
        call: ``call(*inputs)`` gives the results, one per linear.

    Args:
        prologue: What stands before the quantization.
        programs: Of the linears, in order.
        bounds: The linears. Their routes, calls and weights are held, not the first of themselves.
        policy: Over everything else, for the choice of producers.
    """

    def __init__(
        self,
        prologue: Prologue,
        programs: Sequence[LinearProgram],
        bounds: Sequence[BoundLinear],
        policy: Policy | None,
    ) -> None:
        self._prologue = prologue
        self._others = tuple(bounds[1:])
        self._linears = tuple(map(_Linear, programs, bounds))
        self._segments = segments(prologue, programs, policy)
        self._uppers = [_UNBOUNDED if s.m_max is None else s.m_max for s in self._segments]
        self._feeders: dict[int, _Feeder] = {}
        self._strides = [program.row_stride for program in programs]
        self._lock = RLock()
        self._stream, self._index, self._asked = capture_question(programs[0].selection.device)
        self.call: Call = guarded(self._call, programs[0].selection.device)

    def _call(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        m = inputs[0].shape[0]
        place = bisect_left(self._uppers, m or 1)
        feeder = self._feeders.get(place)
        if feeder is None or (feeder.seen is not None and feeder.seen.changed()):
            feeder = self._begin(place, m)
        results: list[Any] = [None] * len(self._linears)
        captured = self._stream(self._index) and self._asked()
        for share in feeder.shares:
            share.feed(inputs, m, results, captured)
        plain = None
        for i, y in enumerate(results):
            if y is None:
                linear = self._linears[i]
                if plain is None:
                    plain = self._prologue.plain(list(inputs), linear.config.in_dtype)
                results[i] = linear.call(plain)
        if m > 1:
            for i, stride in enumerate(self._strides):
                if results[i].stride(0) != stride:
                    results[i] = as_promised(results[i], self._linears[i].program.key)
        return results

    def _begin(self, place: int, m: int) -> _Feeder:
        """Bind what the M of a segment need: once, and again where static scales were changed."""
        with self._lock:
            found = self._feeders.get(place)
            if found is not None and not (found.seen and found.seen.changed()):
                return found
            if place == len(self._segments) or self._segments[place].m_min > max(m, 1):
                for linear in self._linears:
                    route_of(linear.routes, m)  # raises for the one that does not serve it
            if is_capturing():
                raise not_warmed(
                    "a fused linear",
                    "its kernels for these rows are not bound yet"
                    if found is None
                    else "static scales were changed in place since they were compared",
                    m=m,
                    hint="call the compiled model once with as many rows before the capture",
                    facts=[str(linear.config) for linear in self._linears],
                )
            made = self._feeders[place] = self._feed(self._segments[place], found)
            return made

    def _feed(self, segment: Segment, before: _Feeder | None) -> _Feeder:
        """Give the producers of a segment with who is fed by each; one alone is not fed."""
        linears, fuses = self._linears, self._prologue.kind != "none"
        # versions first: what changes while it is compared is compared again
        seen = SeenScales(t for group in segment.groups for t in _compared(group, linears, segment))
        split = tuple(
            (group, members)
            for group in segment.groups
            for members in _of_one_scale(group, linears, segment)
            if fuses or len(members) > 1
        )
        who = tuple(members for _, members in split)
        if before is not None and before.who == who:
            shares = before.shares  # the producers are given the tensors: new values are used
        else:
            shares = tuple(_Share(group, members, linears, segment) for group, members in split)
        return _Feeder(shares, who, seen or None)


class _Feeder(NamedTuple):
    """Who is fed in a segment.

    Attributes:
        shares: The producers.
        who: The places of the linears that each feeds.
        seen: The scales whose values decided that; None where no values did.
    """

    shares: tuple[_Share, ...]
    who: tuple[tuple[int, ...], ...]
    seen: SeenScales | None


class _Linear:
    """What is held of a bound linear, and how its failures are told."""

    def __init__(self, program: LinearProgram, bound: BoundLinear) -> None:
        self.program = program
        self.routes: tuple[Route, ...] = bound.routes
        self.call: Call = bound.call
        self.store: WeightStore = bound.store
        self.config: Any = program.selection.config

    def report(self, stage: Stage, wanted: str, taken: str, reason: str) -> None:
        """Report a fallback; raises where the policy says ``error``."""
        selection = self.program.selection
        event = FallbackEvent(
            wanted,
            taken,
            stage,
            reason,
            selection.device.name,
            selection.config.digest(),
            self.program.layer,
        )
        self.program.context.report(event, selection.settings.on_fallback(stage))

    def scales(self, reads: QuantizeConfig) -> dict[str, torch.Tensor]:
        """Give the producer's scales that come with the weights."""
        store = self.store
        return static_scales(
            reads.operand, store.small("input_scale"), store.small("input_global_scale")
        )


def _of_one_scale(
    group: Group, linears: tuple[_Linear, ...], segment: Segment
) -> list[tuple[int, ...]]:
    """Split a group by the values of static scales: linears whose values differ do not share.

    Reads the values where more than one linear has its own.
    """
    kinds: list[tuple[dict[str, torch.Tensor], list[int]]] = []
    for place in group.members:
        reads = _reads(segment.consumers[place])
        mine = linears[place].scales(reads)
        for scales, members in kinds:
            if scales.keys() == mine.keys() and all(_is_equal(mine[n], scales[n]) for n in mine):
                members.append(place)
                break
        else:
            kinds.append((mine, [place]))
    return [tuple(members) for _, members in kinds]


def _compared(group: Group, linears: tuple[_Linear, ...], segment: Segment) -> list[torch.Tensor]:
    """Give the scales whose values `_of_one_scale` may read: none where all are one tensor."""
    all_of: dict[str, list[torch.Tensor]] = {}
    for place in group.members:
        for name, tensor in linears[place].scales(_reads(segment.consumers[place])).items():
            all_of.setdefault(name, []).append(tensor)
    several = (some for some in all_of.values() if len({t.data_ptr() for t in some}) > 1)
    return [tensor for some in several for tensor in some]


def _is_equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() or torch.equal(a, b)


def _reads(consumer: Consumer) -> QuantizeConfig:
    reads: Any = consumer.reads  # never None: legality groups readers only
    return reads  # type: ignore[no-any-return]


class _Share:
    """A producer and the linears that read what it writes."""

    def __init__(
        self,
        group: Group,
        places: tuple[int, ...],
        linears: tuple[_Linear, ...],
        segment: Segment,
    ) -> None:
        first = linears[places[0]]
        reads = _reads(segment.consumers[places[0]])
        self._first = first
        self._config: LayerConfig = group.config
        self._ids = str(group.selection.ranges[0].pipeline)
        self._call: Callable[..., QuantizedTensor] | None = None
        self.members: list[_Member] = []
        try:
            bound = _bound_producer(first, group.selection)
            # all that calls of this range may need is compiled now, not in some later call
            bound.warmup(probes_of(segment))
            scales = first.scales(reads)
            self._call = partial(bound.call, **scales) if scales else bound.call
        except Exception as error:  # noqa: BLE001 - sorted by what it means
            self._give_up("build", error)
            return
        for place in places:
            consumer = segment.consumers[place]
            self.members.append(_Member(place, linears[place], consumer, reads, segment))

    def feed(
        self, inputs: tuple[torch.Tensor, ...], m: int, results: list[Any], captured: int | bool
    ) -> None:
        """Put in the results of the members; None stays where one has to be fed plainly."""
        if self._call is None:
            return
        try:
            q = self._call(*inputs)
        except Exception as error:  # noqa: BLE001 - sorted by what it means
            self._give_up("run", error)
            return
        for member in self.members:
            results[member.place] = member.run(q, m, captured)

    def _give_up(self, stage: Stage, error: Exception) -> None:
        reason = f"{self._config.op} failed: {one_line(error)}"
        sorted_out(error, reason)
        self._call = None
        self._first.report(stage, self._ids, "the unfused pipeline", reason)


class _Member:
    """A linear that is fed a quantized x."""

    def __init__(
        self,
        place: int,
        linear: _Linear,
        consumer: Consumer,
        reads: QuantizeConfig,
        segment: Segment,
    ) -> None:
        self.place = place
        self._linear = linear
        self._reads = reads
        self._route: Route | None = None
        self._run: Call | None = None
        self._fits: Built | None = None
        self._failed: Built | None = None
        self._is_looked_at = False
        self._name = consumer.pipeline.main.id
        if consumer.instead_of is None:
            self._route = route_of(linear.routes, segment.m_min)
        else:
            self._run = self._build(consumer.pipeline, probes_of(segment))

    def run(self, q: QuantizedTensor, m: int, captured: int | bool) -> torch.Tensor | None:
        """Give y; None when the kernel in use reads something else, or fails."""
        route = self._route
        if route is None:
            return self._run_other(q)
        built = route.current(m)
        if built is not self._fits and not self._may_read(built):  # another one is in use
            return None
        # the call of the linear looks first whether a capture may have it
        run = self._linear.call if captured else route.run
        try:
            y: torch.Tensor = run(q)
        except Exception as error:  # noqa: BLE001 - sorted by what it means
            # the plain call that follows takes another kernel, if this one fails there, too
            reason = f"{built.last.id} raised: {one_line(_cause(error))}"
            sorted_out(error, reason)
            self._fits, self._failed = None, built
            self._linear.report("run", self._name, "the unfused pipeline", reason)
            return None
        return y

    def _may_read(self, built: Built) -> bool:
        """Tell whether a kernel that came into use reads what the producer writes."""
        if built is self._failed or built.reads is None or differences(self._reads, built.reads):
            return False
        self._fits = built
        return True

    def _run_other(self, q: QuantizedTensor) -> torch.Tensor | None:
        """Call the pipeline that stands for the selected one."""
        if self._run is None:
            return None
        linear = self._linear
        try:
            y: torch.Tensor = self._run(q)
            if not self._is_looked_at:
                problem = result_problem(linear.config, y, q.m, q.device)
                if problem is not None:
                    raise RuntimeError(f"it {problem}")  # noqa: TRY301 - sorted as its own errors
                self._is_looked_at = True
        except Exception as error:  # noqa: BLE001 - sorted by what it means
            reason = f"{one_line(_cause(error))}"
            sorted_out(error, reason)
            self._run = None
            linear.report("run", self._name, "the unfused pipeline", reason)
            return None
        return y

    def _build(self, pipeline: Pipeline, ms: list[int]) -> Call | None:
        linear = self._linear
        program = linear.program
        device, settings = program.selection.device, program.selection.settings
        examine = None
        if settings.self_check == "first_use":
            examine = examiner(program.context, device, linear.store)
        try:
            built = build(pipeline, program.context, device, linear.store, examine)
            step, kernel = pipeline.steps[-1], built.kernels[-1]
            try:
                kernel.warmup(step.config, ms)  # type: ignore[arg-type]
            except Exception as error:
                raise KernelFailed(step.kernel, "warmup", error) from error
        except KernelFailed as failed:
            reason = f"{failed.kernel.id} {failed.doing}: {one_line(failed.error)}"
            if not isinstance(failed.error, NotBuiltError):
                refuse(failed.error, lambda: None, reason)
            linear.report("build", self._name, "the unfused pipeline", reason)
            return None
        return built.run


def _bound_producer(linear: _Linear, selection: Selection) -> BoundProducer:
    """Give a producer, bound once per context."""
    context = linear.program.context
    key = ("fused", selection.config, selection.device, selection.settings)
    found: BoundProducer = context.remember(key, lambda: bind_producer(selection, context=context))
    return found


def probes_of(segment: Segment) -> list[int]:
    """Give the Ms for which kernels of a segment are warmed up."""
    first, last = segment.m_min, segment.m_max
    return [m for m in PROBE_MS if first <= m and (last is None or m <= last)] or [first]


def _cause(error: Exception) -> BaseException:
    return error.error if isinstance(error, KernelFailed) else error


def sorted_out(error: Exception, reason: str) -> None:
    """Raise what no other kernel can mend; return for the rest."""
    cause = _cause(error)
    refuse(cause, lambda: None, reason)
    if is_capturing():
        if isinstance(cause, LaunchError):
            raise cause
        raise LaunchError(
            "a kernel raised while a CUDA graph was being captured",
            facts=[reason],
            hint="call the compiled model once with each M before capturing it",
        ) from cause


__all__ = ["FusedCalls", "probes_of", "sorted_out"]
