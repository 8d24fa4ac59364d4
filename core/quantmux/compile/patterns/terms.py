"""Read arithmetic in a graph: which operation computes a value, and on what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from quantmux.compile.patterns.columns import settle
from quantmux.compile.patterns.facts import aten, is_number, same_shape, tensor_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.fx import Node

_HALF = (torch.bfloat16, torch.float16)
_ADD = (aten.add.Tensor, aten.add.Scalar)
_MUL = (aten.mul.Tensor, aten.mul.Scalar)
_DIV = (aten.div.Tensor, aten.div.Scalar)


@dataclass(frozen=True, slots=True)
class Trail:
    """What was read on the way.

    Attributes:
        nodes: The nodes that were read.
        roundings: What is rounded to 16 bit.
    """

    nodes: tuple[Node, ...] = ()
    roundings: tuple[str, ...] = ()

    def __add__(self, other: Trail) -> Trail:
        return Trail(self.nodes + other.nodes, self.roundings + other.roundings)


@dataclass(frozen=True, slots=True)
class Term:
    """A value and the node that computes it, found past views, casts and in-place writes.

    Attributes:
        node: What computes the value.
        trail: What was passed, ``node`` not included.
    """

    node: Node
    trail: Trail

    @property
    def target(self) -> object:
        """The operation."""
        return self.node.target if self.node.op == "call_function" else None

    def read(self, name: str = "") -> Trail:
        """Give the trail with the node itself; ``name`` is the value's where it is inexact."""
        tensor = tensor_of(self.node)
        rounds = bool(name) and tensor is not None and tensor.dtype in _HALF
        return self.trail + Trail((self.node,), (name,) if rounds else ())


def term(value: Node, n: int, name: str = "") -> Term:
    """Find what computes a value whose elements make rows of n.

    Args:
        value: A tensor.
        n: Width of its rows.
        name: What a rounding on the way is called.
    """
    top = settle(value, n)
    return Term(top.node, Trail(top.passed, (name,) if top.narrowed else ()))


def product(at: Term) -> Iterator[tuple[Node, Node]]:
    """Give the factors of an elementwise product, in both orders; nothing is broadcast."""
    if at.target in _MUL:
        a, b = at.node.args[:2]
        if same_shape(a, at.node) and same_shape(b, at.node):
            yield a, b  # type: ignore[misc]
            yield b, a  # type: ignore[misc]


def quotient(at: Term) -> tuple[Node, Node] | None:
    """Give numerator and denominator of an elementwise quotient; nothing is broadcast."""
    if at.target is aten.div.Tensor:
        a, b = at.node.args[:2]
        if same_shape(a, at.node) and same_shape(b, at.node):
            return a, b  # type: ignore[return-value]
    return None


def plus(at: Term) -> tuple[Node, object] | None:
    """Give ``a`` and ``c`` of ``a + c``, c a number or a scalar tensor; None where it is scaled."""
    if at.target not in _ADD or not _is_plain(at.node):
        return None
    a, c = at.node.args[:2]
    if same_shape(a, at.node):
        return a, c  # type: ignore[return-value]
    if same_shape(c, at.node):
        return c, a  # type: ignore[return-value]
    return None


def times(at: Term, number: float) -> Node | None:
    """Give ``a`` of ``a · number``."""
    if at.target in _MUL:
        a, b = at.node.args[:2]
        if is_number(b, number) and same_shape(a, at.node):
            return a  # type: ignore[return-value]
    return None


def over(at: Term, number: float) -> Node | None:
    """Give ``a`` of ``a / number``."""
    if at.target in _DIV:
        a, b = at.node.args[:2]
        if is_number(b, number) and same_shape(a, at.node):
            return a  # type: ignore[return-value]
    return None


def applied(at: Term, operator: object) -> Node | None:
    """Give ``a`` of ``operator(a)``, elementwise with one argument."""
    if at.target is operator and same_shape(at.node.args[0], at.node):
        return at.node.args[0]  # type: ignore[return-value]
    return None


def rounded_names(trail: Trail, result: Node, *, bare: bool = False) -> tuple[str, ...]:
    """Give the names of what is rounded on the way to a result, each once.

    Args:
        trail: What was read.
        result: The value; where it is itself rounded, its rounding is not one on the way.
        bare: The last name in the trail is the result's own.
    """
    names = [name for name in trail.roundings if name]
    tensor = tensor_of(result)
    if bare and tensor is not None and tensor.dtype in _HALF:
        names = names[:-1]
    return tuple(dict.fromkeys(names))


def _is_plain(add: Node) -> bool:
    alpha = add.args[2] if len(add.args) > 2 else add.kwargs.get("alpha", 1)
    return is_number(alpha, 1)


__all__ = [
    "Term",
    "Trail",
    "applied",
    "over",
    "plus",
    "product",
    "quotient",
    "rounded_names",
    "term",
    "times",
]
