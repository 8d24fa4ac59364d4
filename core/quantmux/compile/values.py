"""Which values of a graph are quantized, by which ops, and who else reads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.fx import Node

from quantmux.compile.patterns.facts import aten, part_of, static, tensor_of, width_of
from quantmux.runtime.traced.fused import recipe_of, weights_of

if TYPE_CHECKING:
    from torch.fx import Graph

_VIEWS: Final = frozenset(
    {
        aten.view.default,
        aten.reshape.default,
        aten._unsafe_view.default,  # noqa: SLF001 - an operator's name
        aten.unsqueeze.default,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.alias.default,
        aten.detach.default,
    }
)
"""The same elements in the same order."""


@dataclass(frozen=True, slots=True)
class Sink:
    """A node that quantizes its input, by itself or as the first thing it does.

    Attributes:
        node: The node.
        op: ``linear``, ``fused_linear`` (without a prologue), ``quantize`` or ``quantize_out``.
        key: Names its program, or says what a fused op does.
        x: Its input [M, n].
        tensors: Its other inputs in the order of the op: weights, or scale and global scale.
    """

    node: Node
    op: str
    key: str
    x: Node
    tensors: tuple[Any, ...]

    @property
    def is_linear(self) -> bool:
        """Tell whether it is one linear or several."""
        return self.op in ("linear", "fused_linear")

    def readers(self) -> list[Reader]:
        """Give its linears."""
        if self.op == "linear":
            return [Reader(self.key, self.tensors, self.node, None, self.x)]
        found: list[Reader] = []
        rest = list(self.tensors)
        for place, key in enumerate(recipe_of(self.key).linears):
            count = weights_of(key)
            weights, rest = tuple(rest[:count]), rest[count:]
            found.append(Reader(key, weights, self.node, place, self.x))
        return found


@dataclass(frozen=True, slots=True)
class Reader:
    """A linear of a graph.

    Attributes:
        key: Names its program.
        weights: Its tensors.
        node: The node.
        place: Which of the node's results is its, None for a node of its own.
        x: Its input [M, K].
    """

    key: str
    weights: tuple[Node, ...]
    node: Node
    place: int | None
    x: Node

    @property
    def value(self) -> Any:
        """Its result without values."""
        made = self.node.meta["val"]
        return made if self.place is None else made[self.place]

    def results(self) -> list[Node]:
        """Give the nodes that stand for its result."""
        if self.place is None:
            return [self.node]
        return [u for u in self.node.users if part_of(u) == (self.node, self.place)]


@dataclass(slots=True)
class Value:
    """A tensor that is quantized.

    Attributes:
        root: The node that computes it; views of it are followed.
        sinks: Who quantizes it, in the order of the graph.
        others: Who else reads it.
    """

    root: Node
    sinks: list[Sink] = field(default_factory=list)
    others: tuple[Node, ...] = ()

    def linears(self) -> list[Reader]:
        """Give the linears among the sinks, in the order of the graph."""
        return [one for sink in self.sinks if sink.is_linear for one in sink.readers()]

    def quantizes(self) -> list[Sink]:
        """Give the quantizers among the sinks."""
        return [sink for sink in self.sinks if not sink.is_linear]

    @property
    def is_shared(self) -> bool:
        """Tell whether all its linears are one fused op already."""
        return sum(sink.is_linear for sink in self.sinks) < 2


def values_of(graph: Graph) -> list[Value]:
    """Give the values of a graph that are quantized, in its order."""
    found: dict[tuple[Node, int], Value] = {}
    for node in graph.nodes:
        sink = _sink(node)
        if sink is None:
            continue
        width = width_of(sink.x)
        if width is None:
            continue
        root = root_of(sink.x, width)
        found.setdefault((root, width), Value(root)).sinks.append(sink)
    for value in found.values():
        value.others = _others(value)
    return list(found.values())


def root_of(node: Node, width: int) -> Node:
    """Follow views upward as long as the rows stay rows of this width."""
    while node.op == "call_function" and node.target in _VIEWS:
        before = node.args[0]
        if not isinstance(before, Node) or width_of(before) != width:
            break
        node = before
    return node


def rows_of(value: Node) -> tuple[int, int | None]:
    """Give the least and the greatest M that the first dim of a value can have in its graph."""
    tensor = tensor_of(value)
    if tensor is None or tensor.ndim == 0:
        return 0, None
    size: Any = tensor.shape[0]
    number = static(size)
    if number is not None:
        return number, number
    from torch.utils._sympy.numbers import int_oo

    node = size.node
    bounds = node.shape_env.bound_sympy(node.expr)
    lower = int(bounds.lower) if bounds.lower.is_Integer else 0
    if bounds.upper is int_oo or not bounds.upper.is_Integer:
        return lower, None
    upper = int(bounds.upper)
    return lower, upper if upper < 2**31 else None


def _others(value: Value) -> tuple[Node, ...]:
    sinks = {sink.node for sink in value.sinks}
    found: dict[Node, None] = {}
    queue = [value.root]
    while queue:
        for user in queue.pop().users:
            if user in sinks:
                continue
            if user.op == "call_function" and user.target in _VIEWS and user.users:
                queue.append(user)
            elif user.users or user.op == "output" or user.is_impure():
                found[user] = None
    return tuple(found)


def _sink(node: Node) -> Sink | None:
    if node.op != "call_function":
        return None
    ops = torch.ops.quantmux
    if node.target is ops.linear.default:
        x, weights, key = _arguments(node, "x", "weights", "key")
        return Sink(node, "linear", key, x, tuple(weights))
    if node.target is ops.fused_linear.default:
        inputs, weights, key = _arguments(node, "inputs", "weights", "key")
        if recipe_of(key).prologue.kind != "none":
            return None
        return Sink(node, "fused_linear", key, inputs[0], tuple(weights))
    if node.target in (ops.quantize.default, ops.quantize_out.default):
        x, scale, global_scale, key = _arguments(node, "x", "scale", "global_scale", "key")
        op = "quantize" if node.target is ops.quantize.default else "quantize_out"
        return Sink(node, op, key, x, (scale, global_scale))
    if is_functionalized(node) and node.args[0] is ops.quantize_out.default:
        given = node.kwargs
        scales = (given["scale"], given["global_scale"])
        x = given["x"]
        if isinstance(x, Node):
            return Sink(node, "quantize_out", str(given["key"]), x, scales)
    return None


def is_functionalized(node: Node) -> bool:
    """Tell whether a node is an op in place that functionalization has wrapped."""
    higher = torch.ops.higher_order
    return node.target in (higher.auto_functionalized, higher.auto_functionalized_v2)


def _arguments(node: Node, *names: str) -> tuple[Any, ...]:
    order = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]  # noqa: SLF001
    given = dict(zip(order, node.args, strict=False)) | dict(node.kwargs)
    return tuple(given.get(name) for name in names)


__all__ = ["Reader", "Sink", "Value", "is_functionalized", "root_of", "rows_of", "values_of"]
