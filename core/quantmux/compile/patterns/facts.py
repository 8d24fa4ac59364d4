"""What a node of a graph is known to be: its shape, its dtype, and whether two shapes are one."""

from __future__ import annotations

from collections.abc import Iterator
from operator import getitem
from typing import TYPE_CHECKING, Any

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

from quantmux.ops.quantized import DTYPE_NAMES

if TYPE_CHECKING:
    from torch.fx import Node

    from quantmux.config.formats import Dtype

aten = torch.ops.aten
CONVERT = torch.ops.prims.convert_element_type.default


def tensor_of(node: object) -> torch.Tensor | None:
    """Give the fake tensor of a node; None for a number, a tuple or a node without one."""
    if not isinstance(node, torch.fx.Node):
        return None
    value = node.meta.get("val")
    return value if isinstance(value, torch.Tensor) else None


def tensor_inputs(node: Node) -> Iterator[Node]:
    """Give the inputs of a node that are tensors."""
    return (one for one in node.all_input_nodes if tensor_of(one) is not None)


def format_of(node: Node) -> Dtype | None:
    """Give the format of a tensor; None where it is none of ours."""
    value = tensor_of(node)
    return None if value is None else DTYPE_NAMES.get(value.dtype)  # type: ignore[return-value]


def width_of(node: Node) -> int | None:
    """Give the size of the last dim; None where it is symbolic or there is none."""
    value = tensor_of(node)
    if value is None or value.ndim == 0:
        return None
    return static(value.shape[-1])


def static(size: object) -> int | None:
    """Give a size that is a number, never a symbol: asking a symbol would add a guard."""
    return size if type(size) is int else None


def trailing(node: Node, dim: int) -> int | None:
    """Give the number of elements of one step along a dim; None where that is symbolic."""
    value = tensor_of(node)
    if value is None:
        return None
    product = 1
    for size in value.shape[dim + 1 :]:
        number = static(size)
        if number is None:
            return None
        product *= number
    return product


def same_shape(one: object, other: object) -> bool:
    """Tell whether two tensors have one shape, whatever the symbols stand for."""
    a, b = tensor_of(one), tensor_of(other)
    if a is None or b is None or a.ndim != b.ndim:
        return False
    return all(same_size(s, t) for s, t in zip(a.shape, b.shape, strict=True))


def same_size(one: Any, other: Any) -> bool:
    """Tell whether two sizes are equal, whatever the symbols stand for; adds no guard."""
    return statically_known_true(one == other)


def is_number(value: object, number: float) -> bool:
    """Tell whether an argument is this literal number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == number


def part_of(node: Node) -> tuple[Node, int] | None:
    """Give the node and the place of ``node = other[place]``."""
    if node.op == "call_function" and node.target is getitem:
        other, place = node.args
        if isinstance(other, torch.fx.Node) and isinstance(place, int):
            return other, place
    return None


__all__ = [
    "CONVERT",
    "aten",
    "format_of",
    "is_number",
    "part_of",
    "same_shape",
    "same_size",
    "static",
    "tensor_inputs",
    "tensor_of",
    "trailing",
    "width_of",
]
