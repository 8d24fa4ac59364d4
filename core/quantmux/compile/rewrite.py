"""Edits of a graph: what a fused op takes, and the node that stands for several."""

from __future__ import annotations

from operator import getitem
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.utils._pytree import tree_map

from quantmux.compile.patterns.facts import aten, tensor_of
from quantmux.compile.places import NAMES, name_of
from quantmux.compile.values import is_functionalized
from quantmux.runtime.traced import fused_quantize
from quantmux.runtime.traced.fused import Recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.fx import Graph, Node

    from quantmux.compile.values import Reader, Sink
    from quantmux.config.policy import Policy
    from quantmux.runtime.traced.prologue import Prologue

_TRACED: Final = "eager_input_vals"
"""What inductor takes the strides from that an op with the tag ``needs_exact_strides`` gets."""


def fuse_linears(
    graph: Graph,
    linears: Sequence[Reader],
    prologue: Prologue,
    inputs: Sequence[Node],
    policy: Policy | None,
) -> None:
    """Put one fused op in the place of linears.

    Args:
        graph: Changed in place.
        linears: In the order of the graph, with weights that are there before the first of them.
        prologue: What stands before them.
        inputs: Its inputs; the first of any shape whose rows are those of the linears' x.
        policy: For the choice of producers.
    """
    first = linears[0].node
    width = tensor_of(linears[0].x).shape[-1]  # type: ignore[union-attr]
    weights = [weight for one in linears for weight in one.weights]
    key = Recipe(prologue, tuple(one.key for one in linears), policy).key()
    with graph.inserting_before(first):
        taken = [_matrix(graph, inputs[0], prologue.width(width)), *inputs[1:]]
        fused = graph.call_function(torch.ops.quantmux.fused_linear.default, (taken, weights, key))
        fused.meta = {**first.meta, "val": [one.value for one in linears]}
        fused.meta[NAMES] = tuple(map(name_of, linears))
        _as_traced(fused)
        for place, one in enumerate(linears):
            item = graph.call_function(getitem, (fused, place))
            item.meta = {k: v for k, v in one.node.meta.items() if k != _TRACED}
            item.meta["val"] = one.value
            for result in one.results():
                result.replace_all_uses_with(item)
                if result is not one.node:
                    graph.erase_node(result)
    for node in dict.fromkeys(one.node for one in linears):
        if not node.users:
            graph.erase_node(node)


def fuse_quantize(
    graph: Graph, sink: Sink, prologue: Prologue, inputs: Sequence[Node], policy: Policy | None
) -> None:
    """Put a fused quantizer in the place of a quantizer, functional or writing into ``out``."""
    node, ops = sink.node, torch.ops.quantmux
    width = tensor_of(sink.x).shape[-1]  # type: ignore[union-attr]
    key = fused_quantize.quantize_key(prologue, sink.key, policy)
    with graph.inserting_before(node):
        taken = [_matrix(graph, inputs[0], prologue.width(width)), *inputs[1:]]
    if is_functionalized(node):
        given: dict[str, Any] = {k: v for k, v in node.kwargs.items() if k != "x"}
        node.args = (ops.fused_quantize_out.default, *node.args[1:])
        node.kwargs = {**given, "inputs": taken, "key": key}
        _as_traced(node)
        return
    scale, global_scale = sink.tensors
    if sink.op == "quantize":
        node.target = ops.fused_quantize.default
        node.args = (taken, scale, global_scale, key)
    else:
        out = node.kwargs.get("out", node.args[3] if len(node.args) > 3 else None)
        node.target = ops.fused_quantize_out.default
        node.args = (taken, scale, global_scale, out, key)
    node.kwargs = {}
    _as_traced(node)


def _as_traced(node: Node) -> None:
    """Say how the inputs of a node lie, as tracing does: the op gets them so."""

    def value(one: Any) -> Any:
        return one.meta["val"] if isinstance(one, torch.fx.Node) else one

    node.meta[_TRACED] = (tree_map(value, node.args), tree_map(value, node.kwargs))


def _matrix(graph: Graph, node: Node, width: int) -> Node:
    """Give a tensor as a matrix of rows of this width."""
    tensor: Any = tensor_of(node)
    if tensor.ndim == 2 and type(tensor.shape[-1]) is int and tensor.shape[-1] == width:
        return node
    made = graph.call_function(aten.reshape.default, (node, [-1, width]))
    made.meta = {k: v for k, v in node.meta.items() if k != _TRACED}
    made.meta["val"] = tensor.reshape(-1, width)
    return made


__all__ = ["fuse_linears", "fuse_quantize"]
