"""Find ``x / sqrt(mean(x²) + eps)``, in the spellings that graphs have of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from quantmux.compile.patterns.columns import same_value
from quantmux.compile.patterns.facts import (
    aten,
    format_of,
    is_number,
    same_shape,
    same_size,
    static,
    tensor_of,
    width_of,
)
from quantmux.compile.patterns.terms import (
    Term,
    Trail,
    applied,
    over,
    plus,
    product,
    term,
    times,
)

if TYPE_CHECKING:
    from torch.fx import Node


@dataclass(frozen=True, slots=True)
class Normalized:
    """A normalized tensor was found.

    Attributes:
        leaves: x, once per place where it is read; all of one value.
        eps: What is added to the mean of squares.
        trail: The nodes that compute the result from x.
    """

    leaves: tuple[Node, ...]
    eps: float
    trail: Trail


@dataclass(frozen=True, slots=True)
class _Rows:
    """One number per row was found, of all columns of x."""

    x: tuple[Node, ...]
    trail: Trail
    eps: float = 0.0


def normalized(value: Node, n: int) -> Normalized | str | None:
    """Find x and eps; the reason where it is close, None where it is something else."""
    at = term(value, n, "normalized")
    if width_of(at.node) != n:
        return None
    reason: str | None = None
    for x, factor, inverse in _candidates(at):
        rows = _inverse_root(factor, n) if inverse else _root(factor, n)
        if isinstance(rows, str):
            reason = rows
        elif rows is not None and same_value(x, rows.x[0], n):
            return Normalized((x, *rows.x), rows.eps, rows.trail + at.read("normalized"))
        elif rows is not None:
            reason = "the mean of squares is that of another tensor than the one it divides"
    return reason


def _candidates(at: Term) -> list[tuple[Node, Node, bool]]:
    """Give x, the factor or divisor per row, and whether it is a factor."""
    if at.target not in (aten.mul.Tensor, aten.div.Tensor):
        return []
    a, b = at.node.args[:2]
    found: list[tuple[Node, Node, bool]] = []
    if _per_row(b, at.node) and same_shape(a, at.node):
        found.append((a, b, at.target is aten.mul.Tensor))  # type: ignore[arg-type]
    if at.target is aten.mul.Tensor and _per_row(a, at.node) and same_shape(b, at.node):
        found.append((b, a, True))  # type: ignore[arg-type]
    return found


def _per_row(one: object, result: Node) -> bool:
    """Tell whether a factor has one number for every row of the result."""
    a, b = tensor_of(one), tensor_of(result)
    if a is None or b is None or a.ndim != b.ndim or static(a.shape[-1]) != 1:
        return False
    return all(same_size(s, t) for s, t in zip(a.shape[:-1], b.shape[:-1], strict=True))


def _inverse_root(value: Node, n: int) -> _Rows | str | None:
    at = term(value, 1)
    if (inner := applied(at, aten.rsqrt.default)) is not None:
        return _with_eps(inner, n, at.read())
    if at.target is aten.pow.Tensor_Scalar and is_number(at.node.args[1], -0.5):
        return _with_eps(at.node.args[0], n, at.read())  # type: ignore[arg-type]
    passed = Trail()
    if (same := times(at, 1)) is not None:  # torch writes 1 / y as reciprocal(y) · 1
        passed, at = at.read(), term(same, 1)
    inner = applied(at, aten.reciprocal.default)
    return None if inner is None else _root(inner, n, at.read() + passed)


def _root(value: Node, n: int, above: Trail = Trail()) -> _Rows | str | None:  # noqa: B008 - frozen
    at = term(value, 1)
    if (inner := applied(at, aten.sqrt.default)) is not None:
        return _with_eps(inner, n, at.read() + above)
    if at.target is aten.pow.Tensor_Scalar and is_number(at.node.args[1], 0.5):
        return _with_eps(at.node.args[0], n, at.read() + above)  # type: ignore[arg-type]
    outside = plus(at)
    if outside is not None and isinstance(_root(outside[0], n), _Rows | str):
        return "eps is added to the root, not under it"
    return None


def _with_eps(value: Node, n: int, above: Trail) -> _Rows | str | None:
    at = term(value, 1)
    parts = plus(at)
    if parts is None:
        if _mean_of_squares(value, n) is not None:
            return "nothing is added to the mean of squares"
        return _like_layer_norm(at)
    mean, eps = parts
    rows = _mean_of_squares(mean, n)
    if rows is None:
        return _like_layer_norm(term(mean, 1))
    if isinstance(eps, bool) or not isinstance(eps, int | float):
        return "eps is no literal number"
    trail = rows.trail + at.read() + above
    half = next((one for one in trail.nodes if format_of(one) in ("bf16", "fp16")), None)
    if half is not None and half not in rows.x:
        return f"the mean of squares is computed in {format_of(half)}"
    return _Rows(rows.x, trail, float(eps))


def _like_layer_norm(at: Term) -> str | None:
    makers = [at.node, *at.node.all_input_nodes]
    if any(one.target is aten.var_mean.correction for one in makers):
        return "the mean is subtracted (LayerNorm)"
    return None


def _mean_of_squares(value: Node, n: int) -> _Rows | None:
    at = term(value, 1)
    if at.target is aten.mean.dim:
        return _squares(at, n)
    total = over(at, n) or times(at, 1 / n)
    if total is None:
        return None
    summed = term(total, 1)
    rows = _squares(summed, n) if summed.target is aten.sum.dim_IntList else None
    return None if rows is None else _Rows(rows.x, rows.trail + at.read())


def _squares(reduced: Term, n: int) -> _Rows | None:
    """Find x of a sum or mean of x² over the last dim, n columns."""
    node = reduced.node
    value, dims = node.args[:2]
    tensor = tensor_of(value)
    if tensor is None or not isinstance(value, torch.fx.Node) or not isinstance(dims, list | tuple):
        return None
    last = len(dims) == 1 and dims[0] in (-1, tensor.ndim - 1)
    if not last or width_of(value) != n:
        return None
    if tensor_of(node).dtype != tensor.dtype:  # type: ignore[union-attr]
        return None
    at = term(value, n)
    if at.target is aten.pow.Tensor_Scalar and is_number(at.node.args[1], 2):
        return _Rows((at.node.args[0],), at.read() + reduced.read())  # type: ignore[arg-type]
    for one, other in product(at):
        if same_value(one, other, n):
            return _Rows((one, other), at.read() + reduced.read())
    return None


__all__ = ["Normalized", "normalized"]
