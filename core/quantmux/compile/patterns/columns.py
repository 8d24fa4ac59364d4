"""Follow a value upward through views, casts and slices: which columns of which tensor it is.

A graph after inductor's decompositions writes ``chunk``, ``split``, slices and ``unflatten`` +
``unbind`` in many ways, and an in-place SiLU on a half as a scatter into the whole. All of them
come down to one fact: *cut the elements of a tensor, in their logical order, into rows of*
``width`` *elements; the value is columns* ``start .. start + n`` *of these rows.*
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from quantmux.compile.patterns.facts import CONVERT, aten, same_shape, tensor_of
from quantmux.compile.patterns.pieces import is_part, piece_of, replaced_in

if TYPE_CHECKING:
    from torch.fx import Node

_SAME_ORDER = frozenset(
    {
        aten.view.default,
        aten.reshape.default,
        aten._unsafe_view.default,  # noqa: SLF001 - an operator's name
        aten.unsqueeze.default,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.clone.default,
        aten.alias.default,
        aten.detach.default,
    }
)
"""All elements of the input, in its logical order."""

_HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of a tensor.

    Attributes:
        node: The tensor.
        width: Its elements are cut into rows of so many.
        start: The first column.
    """

    node: Node
    width: int
    start: int = 0


@dataclass(frozen=True, slots=True)
class Point:
    """A place on the way up from a value.

    Attributes:
        columns: What the value is there.
        passed: The nodes between, the value's own among them, this place's not.
        narrowed: The dtypes to which it is rounded between.
    """

    columns: Columns
    passed: tuple[Node, ...] = ()
    narrowed: tuple[torch.dtype, ...] = ()

    @property
    def node(self) -> Node:
        """The tensor of this place."""
        return self.columns.node


def way_up(value: Node, n: int, *, roundings: bool = False) -> tuple[Point, ...]:
    """Give all places on the way up from a value, the value itself first.

    Args:
        value: A tensor whose elements make rows of n.
        n: Columns of the value.
        roundings: Pass casts that round, too; else only those that keep the value.
    """
    point = Point(Columns(value, n))
    places = [point]
    while (step := _step(point.columns, n, roundings=roundings)) is not None:
        columns, passed, narrowed = step
        point = Point(columns, (*point.passed, *passed), (*point.narrowed, *narrowed))
        places.append(point)
    return tuple(places)


def settle(value: Node, n: int, *, roundings: bool = True) -> Point:
    """Give the topmost place where the value is a whole tensor: what computes it."""
    whole = (p for p in way_up(value, n, roundings=roundings) if p.columns.width == n)
    *_, top = whole
    return top


def same_value(one: Node, other: Node, n: int) -> bool:
    """Tell whether two tensors have the same elements: the same columns of one tensor."""
    return way_up(one, n)[-1].columns == way_up(other, n)[-1].columns


def keeps_elements(node: Node) -> bool:
    """Tell whether a node has elements of its input as they are: a view, a part, an exact cast."""
    return node.target in _SAME_ORDER or is_part(node) or is_exact_cast(node)


def is_exact_cast(node: Node) -> bool:
    """Tell whether a node is a cast that keeps every number."""
    return node.target is CONVERT and _cast(Columns(node, 0), roundings=False) is not None


Step = tuple[Columns, tuple["Node", ...], tuple[torch.dtype, ...]]


def _step(at: Columns, n: int, *, roundings: bool) -> Step | None:
    node = at.node
    if node.op != "call_function":
        return None
    target = node.target
    if target in _SAME_ORDER:
        return _same(at, node.args[0])
    if target is CONVERT:
        return _cast(at, roundings=roundings)
    if target is aten.copy.default:
        whole, source = node.args[:2]
        fits = same_shape(whole, source) and _dtype(whole) == _dtype(source)
        return _same(at, source) if fits else None
    return _scattered(at, n) or _sliced(at)


def _same(at: Columns, source: object) -> Step | None:
    if tensor_of(source) is None or not isinstance(source, torch.fx.Node):
        return None
    return Columns(source, at.width, at.start), (at.node,), ()


def _cast(at: Columns, *, roundings: bool) -> Step | None:
    source = at.node.args[0]
    old, new = _dtype(source), _dtype(at.node)
    exact = old == new or (old in _HALF and new == torch.float32)
    rounds = new in _HALF and old == torch.float32
    if not exact and not (rounds and roundings):
        return None
    step = _same(at, source)
    return step if step is None or exact or new is None else (*step[:2], (new,))


def _sliced(at: Columns) -> Step | None:
    """Step from a part to the tensor of which it is one, where the part is cut into whole rows."""
    piece = piece_of(at.node)
    if piece is None or at.width != piece.high - piece.low:
        return None
    return Columns(piece.whole, piece.width, piece.low + at.start), piece.passed, ()


def _scattered(at: Columns, n: int) -> Step | None:
    """Step over a tensor of which a slice was replaced: into the slice, or past it."""
    found = replaced_in(at.node)
    if found is None or found[0].width != at.width:
        return None
    piece, source = found
    if piece.low <= at.start and at.start + n <= piece.high:
        if not isinstance(source, torch.fx.Node) or _dtype(source) != _dtype(at.node):
            return None
        return Columns(source, piece.high - piece.low, at.start - piece.low), piece.passed, ()
    if at.start + n <= piece.low or piece.high <= at.start:
        return Columns(piece.whole, at.width, at.start), piece.passed, ()
    return None


def _dtype(node: object) -> torch.dtype | None:
    tensor = tensor_of(node)
    return None if tensor is None else tensor.dtype


__all__ = ["Columns", "Point", "is_exact_cast", "keeps_elements", "same_value", "settle", "way_up"]
