"""Search: go over one graph, judge every value that is quantized, and rewrite what is legal."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantmux.compile.patterns import NearMiss, RmsNorm, SiluMul, find_rmsnorm, find_silu_mul
from quantmux.compile.patterns.facts import format_of
from quantmux.compile.places import into_of, line_of, name_of
from quantmux.compile.report import Site
from quantmux.compile.rewrite import fuse_linears, fuse_quantize
from quantmux.compile.values import Reader, Sink, Value, rows_of, values_of
from quantmux.errors import InputError, QuantmuxError
from quantmux.runtime.traced.keys import linear_program, producer_program
from quantmux.runtime.traced.legality import quantizer_segments, segments
from quantmux.runtime.traced.library import NAMESPACE
from quantmux.runtime.traced.prologue import Prologue

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch.fx import Graph, Node

    from quantmux.config.policy import Policy
    from quantmux.runtime.traced.legality import Segment


@dataclass(slots=True)
class _Plan:
    """How a value would be fused.

    Attributes:
        prologue: What is computed before.
        inputs: Of the prologue.
        reasons: Why it is not done after all.
        notes: What is to be known where it is done.
    """

    prologue: Prologue
    inputs: tuple[Node, ...]
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Search:
    """One run over one graph.

    Args:
        graph: Changed in place.
        number: Of the graph, for the report.
        policy: For the choice of producers.
    """

    def __init__(self, graph: Graph, number: int, policy: Policy | None) -> None:
        self._graph = graph
        self._number = number
        self._policy = policy
        self._sites: list[Site] = []
        self._changed = False

    def run(self) -> list[Site]:
        """Rewrite what is legal; give every site."""
        values = values_of(self._graph)
        if not values:
            return []
        for value in values:
            self._merge_equal(value)
        for value in values:
            self._value(value)
        if self._changed:
            self._graph.eliminate_dead_code()
            self._graph.lint()
        return self._sites

    def _merge_equal(self, value: Value) -> None:
        """Let equal quantizers of one value be one."""
        kept: dict[tuple[Any, ...], list[Sink]] = {}
        for sink in value.quantizes():
            if sink.op == "quantize":
                kept.setdefault((sink.key, *sink.tensors), []).append(sink)
        for same in kept.values():
            # results that are given away stay apart: whoever has one may write into it
            given = [sink for sink in same if _is_given_away(sink)]
            first, *others = [sink for sink in same if sink not in given[1:]]
            if not others:
                continue
            for sink in others:
                sink.node.replace_all_uses_with(first.node)
                self._graph.erase_node(sink.node)
                value.sinks.remove(sink)
            into = into_of(first) * (1 + len(others))
            self._note(value, "equal quantize", into, taken=True)

    def _value(self, value: Value) -> None:
        pattern = _pattern(value.root)
        if isinstance(pattern, NearMiss):
            into = _into(value.sinks)
            self._note(value, pattern.pattern, into, taken=False, reasons=(pattern.reason,))
        elif pattern is not None and self._fuse(value, pattern):
            return
        if not value.is_shared:
            self._share(value)

    def _fuse(self, value: Value, pattern: SiluMul | RmsNorm) -> bool:
        """Fuse a prologue into everything that quantizes its result; tell whether it was done."""
        plan = _plan(value, pattern)
        kind, into = plan.prologue.kind, _into(value.sinks)
        linears = value.linears()
        parts: list[Segment] = []
        reasons = list(plan.reasons)
        if len(self._in_time(linears)) < len(linears):
            reasons.append("the weights of one linear are computed behind another linear")
        if not reasons:
            try:
                parts = self._segments(value, plan.prologue)
            except QuantmuxError as error:
                reasons.append(error.headline)
            else:
                reasons += () if parts else ("no kernel serves an M that the graph can have",)
        if reasons or not all(part.is_fused for part in parts):
            self._note(value, kind, into, taken=False, parts=parts, reasons=reasons)
            return False
        self._note(value, kind, into, taken=True, parts=parts, reasons=plan.notes)
        if linears:
            fuse_linears(self._graph, linears, plan.prologue, plan.inputs, self._policy)
        for sink in value.quantizes():
            fuse_quantize(self._graph, sink, plan.prologue, plan.inputs, self._policy)
        return True

    def _segments(self, value: Value, prologue: Prologue) -> list[Segment]:
        """Give the ranges of M that the graph can have, of all sinks."""
        found: list[Segment] = []
        linears = value.linears()
        if linears:
            found += self._of_linears(prologue, linears)
        for sink in value.quantizes():
            program = producer_program(sink.key)
            parts = quantizer_segments(prologue, program, self._policy)
            found += _reachable(parts, sink.x)
        return found

    def _of_linears(self, prologue: Prologue, linears: list[Reader]) -> list[Segment]:
        programs = [linear_program(one.key) for one in linears]
        if any(program.context is not programs[0].context for program in programs):
            raise InputError("the linears were bound in different contexts")
        return _reachable(segments(prologue, programs, self._policy), linears[0].x)

    def _share(self, value: Value) -> None:
        """Let the linears that read one value share its quantized form."""
        name = "shared input"
        linears = self._in_time(value.linears())
        into = tuple(map(name_of, linears))
        try:
            config: Any = linear_program(linears[0].key).selection.config
            prologue = Prologue("none", config.in_dtype)
            parts = self._of_linears(prologue, linears)
            sharing = sorted({i for part in parts for group in part.groups for i in group.members})
            if not sharing:
                self._note(value, name, into, taken=False, parts=parts)
                return
            notes: tuple[str, ...] = ()
            nodes = {linears[i].node for i in sharing}  # a fused op is taken whole
            sharing = [i for i, one in enumerate(linears) if one.node in nodes]
            if len(sharing) < len(linears):
                left = ", ".join(into[i] for i in range(len(into)) if i not in sharing)
                notes = (f"{left}: reads something else, and is left as it is",)
                linears = [linears[i] for i in sharing]
                parts = self._of_linears(prologue, linears)
        except QuantmuxError as error:
            self._note(value, name, into, taken=False, reasons=(error.headline,))
            return
        into = tuple(map(name_of, linears))
        self._note(value, name, into, taken=True, parts=parts, reasons=notes)
        fuse_linears(self._graph, linears, prologue, (linears[0].x,), self._policy)

    def _in_time(self, linears: list[Reader]) -> list[Reader]:
        """Give the linears whose weights are there when the first of them is computed."""
        if not linears:
            return []
        order = self._order()
        first = order[linears[0].node]
        return [one for one in linears if all(order[w] < first for w in one.weights)]

    def _order(self) -> dict[Node, int]:
        return {node: place for place, node in enumerate(self._graph.nodes)}

    def _note(
        self,
        value: Value,
        pattern: str,
        into: tuple[str, ...],
        *,
        taken: bool,
        parts: Iterable[Segment] = (),
        reasons: Iterable[str] = (),
    ) -> None:
        self._changed |= taken
        x = value.sinks[0].x
        self._sites.append(
            Site(
                graph=self._number,
                pattern=pattern,
                node=value.root.name,
                line=line_of(value.root) or line_of(value.sinks[0].node),
                into=into,
                taken=taken,
                rows=rows_of(x),
                segments=tuple(parts),
                reasons=tuple(reasons),
            )
        )


def _into(sinks: Iterable[Sink]) -> tuple[str, ...]:
    return tuple(name for sink in sinks for name in into_of(sink))


def _is_given_away(sink: Sink) -> bool:
    """Tell whether somebody may have the results of a quantizer but ops that only read them."""
    parts = [user for user in sink.node.users if user.target is operator.getitem]
    readers = {user for part in parts for user in part.users}
    others = set(sink.node.users) - set(parts)
    return bool(others) or any(getattr(r.target, "namespace", "") != NAMESPACE for r in readers)


def _pattern(root: Node) -> SiluMul | RmsNorm | NearMiss | None:
    found = find_silu_mul(root)
    if isinstance(found, SiluMul):
        return found
    other = find_rmsnorm(root)
    return other if isinstance(other, RmsNorm) or found is None else found


def _plan(value: Value, pattern: SiluMul | RmsNorm) -> _Plan:
    plan = _silu_mul(pattern) if isinstance(pattern, SiluMul) else _rmsnorm(pattern, value)
    if value.others:
        names = ", ".join(sorted({_called(node) for node in value.others}))
        plan.reasons += (
            f"the value is read by {names} too: it is computed anyway, and fusing saves nothing",
        )
    if pattern.escapes:
        names = ", ".join(node.name for node in pattern.escapes)
        plan.notes += (f"{names}: read elsewhere too, and computed there as before",)
    return plan


def _silu_mul(pattern: SiluMul) -> _Plan:
    prologue = Prologue("silu_mul", pattern.in_dtype)
    if pattern.source is None:
        why = (
            "gate and up are two tensors, a fused kernel reads one [M, 2n] = [gate | up]: make "
            "one linear of gate_proj and up_proj"
        )
        return _Plan(prologue, (), reasons=(why,))
    reasons: tuple[str, ...] = ()
    if not pattern.gate_first:
        why = (
            "the halves are [up | gate], fused kernels read [gate | up]: swap the rows of the "
            "weight that makes them"
        )
        reasons = (why,)
    return _Plan(prologue, (pattern.source,), reasons=reasons)


def _rmsnorm(pattern: RmsNorm, value: Value) -> _Plan:
    in_dtype, weight = pattern.in_dtype, pattern.weight
    prologue = Prologue("rmsnorm", in_dtype, norm_eps=pattern.eps, fp32_weight=pattern.fp32_weight)
    reasons: list[str] = []
    if in_dtype == "fp32" and format_of(value.root) != "fp32":
        reasons.append(
            "its input is fp32 and its result is not: a fused kernel would read twice the bytes"
        )
    if weight is None:
        reasons.append("it has no weight, and fused kernels read one")
        return _Plan(prologue, (), tuple(reasons))
    form = format_of(weight)
    if form != ("fp32" if pattern.fp32_weight else in_dtype):
        reasons.append(f"its weight is {form}, its input {in_dtype}")
    return _Plan(prologue, (pattern.source, weight), tuple(reasons))


def _called(node: Node) -> str:
    return "the graph's output" if node.op == "output" else node.name


def _reachable(parts: Iterable[Segment], x: Node) -> list[Segment]:
    """Give the ranges that hold an M that the graph can have; M = 0 is served by any."""
    first, last = rows_of(x)
    low, high = max(first, 1), None if last is None else max(last, 1)
    return [part for part in parts if part.overlaps(low, high)]


__all__ = ["Search"]
