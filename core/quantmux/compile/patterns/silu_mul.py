"""Find SiLU·mul."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantmux.compile.patterns.columns import Columns, way_up
from quantmux.compile.patterns.facts import format_of, width_of
from quantmux.compile.patterns.formats import misfit
from quantmux.compile.patterns.found import NearMiss, SiluMul
from quantmux.compile.patterns.interior import in_order, passed_to, read_elsewhere
from quantmux.compile.patterns.likeness import after_it, like_silu_mul, maker_of
from quantmux.compile.patterns.pieces import is_part
from quantmux.compile.patterns.silu import silu_of
from quantmux.compile.patterns.terms import Term, product, rounded_names, term

if TYPE_CHECKING:
    from torch.fx import Node

    from quantmux.compile.patterns.columns import Point
    from quantmux.compile.patterns.silu import Of


def find_silu_mul(node: Node) -> SiluMul | NearMiss | None:
    """Tell whether a value is ``silu(gate) · up``: the pattern, a near miss, or None.

    Gate and up are the halves of one tensor, or two tensors. The arithmetic is fp32 or in the
    format of the input, or a mixture. Nothing is guessed: columns, shapes and dtypes are read off
    the graph, and a symbolic width is none.

    Args:
        node: The value that is quantized, [..., n].
    """
    found = _silu_mul(node)
    return after_it("silu_mul", node, _silu_mul) if found is None else found


def _silu_mul(node: Node) -> SiluMul | NearMiss | None:
    n = width_of(node)
    if n is None:
        return None
    at = term(node, n)
    for factor, up in product(at):
        silu = silu_of(factor, n)
        if silu is not None:
            return _of(node, at, silu, up, n)
    reason = like_silu_mul(at, n)
    return None if reason is None else NearMiss("silu_mul", reason)


@dataclass(frozen=True, slots=True)
class _Halves:
    source: Node | None
    gate: Node
    up: Node
    gate_first: bool = True

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.gate, self.up) if self.source is None else (self.source,)


def _of(node: Node, at: Term, silu: Of, up: Node, n: int) -> SiluMul | NearMiss:
    halves = _halves(silu.leaves[0], up, n)
    if isinstance(halves, str):
        return NearMiss("silu_mul", halves)
    in_dtype, out_dtype = format_of(halves.inputs[0]), format_of(node)
    trail = silu.trail + at.read("product" if out_dtype == "fp32" else "")
    nodes = list(trail.nodes)
    for leaf in (*silu.leaves, up):
        nodes += passed_to(leaf, halves.inputs, n)
    reason = misfit(halves.inputs, nodes, node)
    if reason is not None or in_dtype is None or out_dtype is None:
        return NearMiss("silu_mul", reason or "its formats are none of bf16, fp16 and fp32")
    interior = in_order(nodes, node, halves.inputs)
    whole = halves.source is not None
    return SiluMul(
        n=n,
        in_dtype=in_dtype,
        out_dtype=out_dtype,
        roundings=rounded_names(trail, node),
        interior=interior,
        escapes=read_elsewhere(interior, node, halves.inputs),
        source=halves.source,
        gate=None if whole else halves.gate,
        up=None if whole else halves.up,
        gate_first=halves.gate_first,
    )


def _halves(gate: Node, up: Node, n: int) -> _Halves | str:
    """Find whose halves gate and up are; the reason where they are no halves."""
    gate_way, up_way = way_up(gate, n), way_up(up, n)
    reached = {point.columns for point in up_way}
    found: list[_Halves] = []
    for point in gate_way:
        at = point.columns
        rest = Columns(at.node, at.width, n - at.start)
        if at.width == 2 * n and at.start in (0, n) and rest in reached:
            found += [_Halves(at.node, gate, up, gate_first=at.start == 0)]
    if found:
        full = [one for one in found if one.source and width_of(one.source) == 2 * n]
        return (full or found)[-1]
    return _two(gate_way, up_way, n)


def _two(gate_way: tuple[Point, ...], up_way: tuple[Point, ...], n: int) -> _Halves | str:
    """Take gate and up as two whole tensors; the reason where they are parts of others."""
    gate, up = gate_way[-1].columns, up_way[-1].columns
    if gate == up:
        return "gate and up are the same value"
    for name, at in (("gate", gate), ("up", up)):
        reason = _not_whole(at.node, n) if at.width == n else None
        if reason is not None:
            return f"{name} {reason}"
    if gate.width != n or up.width != n:
        return f"gate is {_columns(gate, n)}, up is {_columns(up, n)}"
    if format_of(gate.node) != format_of(up.node):
        return f"gate is {format_of(gate.node)}, up is {format_of(up.node)}"
    return _Halves(None, gate.node, up.node)


def _not_whole(node: Node, n: int) -> str | None:
    """Give the reason why a tensor is not one that a linear gave; None where it may be."""
    if is_part(node):
        return "is a part of a tensor that is not one run of columns"
    if width_of(node) != n:
        return f"has {width_of(node)} columns, the rows that are quantized have {n}"
    made = maker_of(node, n)
    return None if made is None else f"is changed by {made} before the product"


def _columns(at: Columns, n: int) -> str:
    if at.width == n:
        return f"all of {at.node.name}"
    return f"columns {at.start}..{at.start + n} of {at.node.name} ({at.width} wide)"


__all__ = ["find_silu_mul"]
