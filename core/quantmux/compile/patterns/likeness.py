"""What a value looks like though it is no pattern: the reasons that a report shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux.compile.patterns.columns import same_value, settle, way_up
from quantmux.compile.patterns.facts import CONVERT, aten, is_number, tensor_inputs, width_of
from quantmux.compile.patterns.found import NearMiss, Pattern
from quantmux.compile.patterns.pieces import is_part
from quantmux.compile.patterns.silu import sigmoid_of, silu_of
from quantmux.compile.patterns.terms import Term, product, term

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.fx import Node

_DEPTH = 8
_ORDER = "the product is associated otherwise: sigmoid(gate) is not multiplied by gate first"
_ACTIVATIONS = {
    aten.erf.default: "GELU",
    aten.tanh.default: "GELU by tanh",
    aten.relu.default: "ReLU",
}


def after_it(
    pattern: str, node: Node, find: Callable[[Node], Pattern | NearMiss | None]
) -> NearMiss | None:
    """Give a near miss where a value is a pattern, changed by one elementwise operation more."""
    width = width_of(node)
    if width is None:
        return None
    top = settle(node, width)
    if not _is_pointwise(top.node):
        return None
    for one in tensor_inputs(top.node):
        if isinstance(find(one), Pattern):
            return NearMiss(pattern, f"its result is changed by {_name(top.node)} afterwards")
    return None


def maker_of(node: Node, n: int) -> str | None:
    """Name the elementwise operation that makes a tensor from a part of another one.

    A half that is clamped, rounded or shifted is no half any more.
    """
    at = node
    for _ in range(_DEPTH):
        inputs = tuple(tensor_inputs(at))
        if len(inputs) != 1 or not _is_pointwise(at):
            return None
        way = way_up(inputs[0], n)
        if way[-1].columns.width != n or any(is_part(one) for one in way[-1].passed):
            return _name(at)
        at = way[-1].node
        if is_part(at):
            return _name(node)
    return None


def like_silu_mul(at: Term, n: int) -> str | None:
    """Give the reason why a product is almost SiLU·mul; None where it does not look like it."""
    for one, other in product(at):
        gate = sigmoid_of(one, n)
        if gate is not None:
            return _sigmoid_times(gate.leaves[0], other, n)
        reason = _not_silu(one, other, n)
        if reason is not None:
            return reason
    return None


def _sigmoid_times(gate: Node, other: Node, n: int) -> str | None:
    """Say what ``sigmoid(gate) · other`` is."""
    factors = [f for pair in product(term(other, n)) for f in pair]
    if any(same_value(f, gate, n) for f in factors):
        return _ORDER
    if same_value(gate, other, n):
        return None  # SiLU alone: nothing is multiplied
    return "the gate is sigmoid(gate), not silu(gate)"


def _not_silu(value: Node, up: Node, n: int) -> str | None:
    """Say what a factor is, instead of the SiLU of something else than the other factor."""
    at = term(value, n)
    for one, other in product(at):
        gate = sigmoid_of(one, n)
        if gate is not None and same_value(gate.leaves[0], up, n):
            return _ORDER
        inner = None if gate is None else term(gate.leaves[0], n)
        if inner is not None and any(same_value(f, other, n) for f in inner.node.all_input_nodes):
            return "the gate is scaled inside the sigmoid"
        if silu_of(one, n) is not None:
            return "silu(gate) is multiplied by a third factor"
    for number in at.node.args[1:2] if at.node.op == "call_function" else ():
        first = at.node.args[0]
        if isinstance(first, torch.fx.Node) and _is_scaled(at, number) and silu_of(first, n):
            return f"silu(gate) is changed by {_name(at.node)} before the product"
    name = _activation(value, n)
    return None if name is None else f"the activation is {name}, not SiLU"


def _is_scaled(at: Term, number: object) -> bool:
    return _is_pointwise(at.node) and isinstance(number, (int, float)) and not is_number(number, 1)


def _activation(value: Node, n: int) -> str | None:
    """Look for an activation function among the elementwise operations of a value."""
    seen = [value]
    for _ in range(_DEPTH):
        nodes = tuple(dict.fromkeys(settle(one, n).node for one in seen))
        for node in nodes:
            if node.target in _ACTIVATIONS:
                return _ACTIVATIONS[node.target]
        seen = [one for node in nodes if _is_pointwise(node) for one in tensor_inputs(node)]
    return None


def _is_pointwise(node: Node) -> bool:
    if node.target is CONVERT:
        return True
    return isinstance(node.target, torch._ops.OpOverload) and (  # noqa: SLF001 - its one home
        torch.Tag.pointwise in node.target.tags
    )


def _name(node: Node) -> str:
    target = node.target
    if isinstance(target, torch._ops.OpOverload):  # noqa: SLF001 - its one home
        return str(target.overloadpacket.__name__)
    return node.name


__all__ = ["after_it", "like_silu_mul", "maker_of"]
