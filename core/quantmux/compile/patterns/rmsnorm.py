"""Find RMSNorm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux.compile.patterns.columns import is_exact_cast, way_up
from quantmux.compile.patterns.facts import (
    aten,
    format_of,
    is_number,
    same_shape,
    static,
    tensor_of,
    width_of,
)
from quantmux.compile.patterns.formats import misfit
from quantmux.compile.patterns.found import NearMiss, Pattern, RmsNorm
from quantmux.compile.patterns.interior import in_order, passed_to, read_elsewhere
from quantmux.compile.patterns.likeness import after_it
from quantmux.compile.patterns.rms import Normalized, normalized
from quantmux.compile.patterns.terms import Term, Trail, plus, rounded_names, term

if TYPE_CHECKING:
    from torch.fx import Node

    from quantmux.config.formats import Dtype


def find_rmsnorm(node: Node) -> RmsNorm | NearMiss | None:
    """Tell whether a value is an RMSNorm: the pattern, a near miss, or None.

    The mean of squares is over the last dim and in fp32, eps a literal. The normalized value may
    be rounded to the input's format before the weight, as many models write it.

    Args:
        node: The value that is quantized, [..., n].
    """
    found = _rmsnorm(node)
    return after_it("rmsnorm", node, _rmsnorm) if found is None else found


def _rmsnorm(node: Node) -> RmsNorm | NearMiss | None:
    n = width_of(node)
    if n is None:
        return None
    at = term(node, n)
    width = width_of(at.node)
    if width != n:
        other = _rmsnorm(at.node) if width is not None else None
        if not isinstance(other, Pattern):
            return None
        return NearMiss("rmsnorm", f"it is over {width} columns, the rows quantized have {n}")
    reason: str | None = None
    for value, weight, passed in _weighted(at, n):
        norm = normalized(value, n)
        if isinstance(norm, Normalized):
            return _of(node, norm, norm.trail + at.read() + Trail(passed), weight, n)
        reason = norm or reason
    bare = normalized(node, n)
    if isinstance(bare, Normalized):
        return _of(node, bare, bare.trail, None, n)
    reason = reason or bare
    return None if reason is None else NearMiss("rmsnorm", reason)


def _of(
    node: Node, norm: Normalized, trail: Trail, weight: Node | None, n: int
) -> RmsNorm | NearMiss:
    source = _source(norm.leaves[0], n)
    in_dtype, out_dtype = format_of(source), format_of(node)
    nodes = list(trail.nodes)
    for leaf in norm.leaves:
        nodes += passed_to(leaf, (source,), n)
    reason = misfit((source,), nodes, node)
    if reason is not None or in_dtype is None or out_dtype is None:
        return NearMiss("rmsnorm", reason or "its formats are none of bf16, fp16 and fp32")
    inputs = [source]
    if weight is not None:
        vector = _vector(weight, in_dtype, n)
        if isinstance(vector, str):
            return NearMiss("rmsnorm", vector)
        nodes += passed_to(weight, (vector,), n)
        inputs.append(vector)
    interior = in_order(nodes, node, inputs)
    return RmsNorm(
        n=n,
        in_dtype=in_dtype,
        out_dtype=out_dtype,
        roundings=rounded_names(trail, node, bare=weight is None),
        interior=interior,
        escapes=read_elsewhere(interior, node, inputs),
        source=source,
        weight=None if weight is None else inputs[1],
        eps=norm.eps,
        fp32_weight=weight is not None and format_of(inputs[1]) == "fp32" != in_dtype,
    )


def _source(leaf: Node, n: int) -> Node:
    """Give the topmost tensor with rows of n that is x, past exact casts."""
    way = [point for point in way_up(leaf, n) if point.columns.width == n]
    return [point.node for point in way if width_of(point.node) == n][-1]


def _weighted(at: Term, n: int) -> list[tuple[Node, Node, tuple[Node, ...]]]:
    """Give the factors of a product in both orders, those whose second is one row for all rows.

    The third is what lies between the row and the product.
    """
    if at.target is not aten.mul.Tensor:
        return []
    a, b = at.node.args[:2]
    found: list[tuple[Node, Node, tuple[Node, ...]]] = []
    for value, weight in ((a, b), (b, a)):
        row = _row(weight, n) if same_shape(value, at.node) else None
        if row is not None:
            found.append((value, *row))  # type: ignore[arg-type]
    return found


def _row(one: object, n: int) -> tuple[Node, tuple[Node, ...]] | None:
    """Find the one row that a tensor has for all rows, past its repetition and exact casts."""
    passed: tuple[Node, ...] = ()
    while isinstance(one, torch.fx.Node):
        tensor = tensor_of(one)
        if tensor is None or tensor.ndim == 0:
            return None
        *lead, last = tensor.shape
        if static(last) == n and all(static(size) == 1 for size in lead):
            return one, passed
        if one.target is not aten.expand.default and not is_exact_cast(one):
            return None
        passed, one = (*passed, one), one.args[0]
    return None


def _vector(weight: Node, in_dtype: Dtype, n: int) -> Node | str:
    """Find the weight [n]; the reason where it is none that a fused kernel takes."""
    made = term(weight, n)
    parts = plus(made)
    if parts is not None and isinstance(parts[1], (int, float)) and not is_number(parts[1], 0):
        return f"the weight is {parts[1]:g} + w: add it to the weight when loading"
    vectors = [p.node for p in way_up(weight, n) if tensor_of(p.node).ndim == 1]  # type: ignore[union-attr]
    if not vectors:
        return "the weight is no vector of one number per column"
    fit = [one for one in vectors if format_of(one) in (in_dtype, "fp32")]
    if not fit:
        return f"the weight is {format_of(vectors[-1])}, the input {in_dtype}"
    return fit[-1]


__all__ = ["find_rmsnorm"]
