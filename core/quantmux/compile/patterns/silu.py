"""Find SiLU, in the spellings that graphs have of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantmux.compile.patterns.columns import same_value
from quantmux.compile.patterns.facts import aten, is_number
from quantmux.compile.patterns.terms import (
    Term,
    Trail,
    applied,
    plus,
    product,
    quotient,
    term,
    times,
)

if TYPE_CHECKING:
    from torch.fx import Node


@dataclass(frozen=True, slots=True)
class Of:
    """A function of one tensor was found.

    Attributes:
        leaves: The tensor, once per place where it is read; all of one value.
        trail: The nodes that compute the function from it.
    """

    leaves: tuple[Node, ...]
    trail: Trail


def silu_of(value: Node, n: int) -> Of | None:
    """Find x of ``silu(x)`` = ``x / (1 + exp(-x))`` = ``x · sigmoid(x)``."""
    at = term(value, n, "silu")
    x = applied(at, aten.silu.default)
    if x is not None:
        return Of((x,), at.read("silu"))
    for one, other in product(at):
        gate = sigmoid_of(other, n)
        if gate is not None and same_value(one, gate.leaves[0], n):
            return Of((one, *gate.leaves), gate.trail + at.read("silu"))
    parts = quotient(at)
    if parts is not None:
        one, other = parts
        below = _one_plus_exp_minus(other, n)
        if below is not None and same_value(one, below.leaves[0], n):
            return Of((one, *below.leaves), below.trail + at.read("silu"))
    return None


def sigmoid_of(value: Node, n: int) -> Of | None:
    """Find x of ``sigmoid(x)`` = ``1 / (1 + exp(-x))``."""
    at = term(value, n, "sigmoid")
    x = applied(at, aten.sigmoid.default)
    if x is not None:
        return Of((x,), at.read("sigmoid"))
    passed = Trail()
    same = times(at, 1)  # torch writes 1 / y as reciprocal(y) · 1
    if same is not None:
        passed, at = at.read(), term(same, n, "sigmoid")
    inner = applied(at, aten.reciprocal.default)
    below = None if inner is None else _one_plus_exp_minus(inner, n)
    return None if below is None else Of(below.leaves, below.trail + at.read("sigmoid") + passed)


def _one_plus_exp_minus(value: Node, n: int) -> Of | None:
    name = "1 + exp(-x)"
    at = term(value, n, name)
    parts = plus(at)
    if parts is None or not is_number(parts[1], 1):
        return None
    power = term(parts[0], n, "exp(-x)")
    inner = applied(power, aten.exp.default)
    if inner is None:
        return None
    minus = term(inner, n, "-x")
    x = applied(minus, aten.neg.default) or times(minus, -1)
    if x is None:
        return None
    return Of((x,), minus.read() + power.read("exp(-x)") + at.read(name))


__all__ = ["Of", "Term", "sigmoid_of", "silu_of"]
