"""Read which part of a tensor a slice, a chunk or one index of a dim is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from quantmux.compile.patterns.facts import aten, part_of, static, tensor_of, trailing

if TYPE_CHECKING:
    from torch.fx import Node

_PARTS = frozenset(
    {
        aten.slice.Tensor,
        aten.select.int,
        aten.split.Tensor,
        aten.split_with_sizes.default,
        aten.unbind.int,
    }
)


@dataclass(frozen=True, slots=True)
class Piece:
    """One run of elements out of every row of a tensor: indices first .. first + length of a dim.

    Attributes:
        whole: The tensor.
        width: Elements of a row, which is all from that dim on.
        low: The first element of the run.
        high: Behind its last element.
        passed: The nodes between the piece and the tensor.
    """

    whole: Node
    width: int
    low: int
    high: int
    passed: tuple[Node, ...] = ()


def is_part(node: Node) -> bool:
    """Tell whether a node is a part of a tensor: a slice, a chunk, one index of a dim."""
    piece = part_of(node)
    return (node if piece is None else piece[0]).target in _PARTS


def piece_of(node: Node) -> Piece | None:
    """Give what a node takes from a tensor; None where that is no run, or is symbolic."""
    indexed = part_of(node)
    if indexed is not None:
        return _chunk(node, *indexed)
    if node.target is aten.select.int:
        other, dim, place = _arguments(node, None, None)
        return _one(other, dim, place, (node,))
    if node.target is aten.slice.Tensor:
        other, dim, first, end, step = _arguments(node, 0, None, None, 1)
        return _run(other, dim, first, end, (node,)) if step == 1 else None
    return None


def replaced_in(node: Node) -> tuple[Piece, object] | None:
    """Give the run of a tensor that a scatter replaces, and by what."""
    if node.target is aten.slice_scatter.default:
        base, source, dim, first, end, step = _arguments(node, None, 0, None, None, 1)
        piece = _run(base, dim, first, end, (node,)) if step == 1 else None
    elif node.target is aten.select_scatter.default:
        base, source, dim, place = _arguments(node, None, None, None)
        piece = _one(base, dim, place, (node,))
    else:
        return None
    return None if piece is None else (piece, source)


def _chunk(node: Node, tuple_of: Node, place: int) -> Piece | None:
    passed = (node, tuple_of)
    if tuple_of.target is aten.unbind.int:
        other, dim = _arguments(tuple_of, 0)
        return _one(other, dim, place, passed)
    if tuple_of.target is aten.split.Tensor:
        other, each, dim = _arguments(tuple_of, None, 0)
        size = static(each)
        if size is None:
            return None
        return _run(other, dim, place * size, (place + 1) * size, passed)
    if tuple_of.target is aten.split_with_sizes.default:
        other, sizes, dim = _arguments(tuple_of, None, 0)
        if not isinstance(sizes, list | tuple) or any(static(size) is None for size in sizes):
            return None
        first = sum(sizes[:place])
        return _run(other, dim, first, first + sizes[place], passed)
    return None


def _one(other: object, dim: object, place: object, passed: tuple[Node, ...]) -> Piece | None:
    if not isinstance(place, int):
        return None
    return _run(other, dim, place, place + 1 if place != -1 else None, passed)


def _run(
    other: object, dim: object, first: object, end: object, passed: tuple[Node, ...]
) -> Piece | None:
    tensor = tensor_of(other)
    if tensor is None or not isinstance(other, torch.fx.Node) or not isinstance(dim, int):
        return None
    if not isinstance(first, int | None) or not isinstance(end, int | None):
        return None
    dim %= tensor.ndim
    size, inner = static(tensor.shape[dim]), trailing(other, dim)
    if size is None or inner is None:
        return None
    start, stop, _ = slice(first, end).indices(size)
    if stop <= start:
        return None
    return Piece(other, size * inner, start * inner, stop * inner, passed)


def _arguments(node: Node, *defaults: object) -> tuple[object, ...]:
    """Give the arguments in the order of the schema; defaults are those behind the first one."""
    schema = node.target._schema  # type: ignore[union-attr]  # noqa: SLF001 - its public face
    names = [one.name for one in schema.arguments]
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    return tuple(
        given.get(name, default) for name, default in zip(names, (None, *defaults), strict=False)
    )


__all__ = ["Piece", "is_part", "piece_of", "replaced_in"]
