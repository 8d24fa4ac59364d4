"""Whether the arithmetic of a pattern is in formats that a fused kernel may stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux.compile.patterns.facts import format_of, tensor_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch.fx import Node


def misfit(inputs: tuple[Node, ...], nodes: Iterable[Node], result: Node) -> str | None:
    """Give the reason why the arithmetic is in no format that fits; None where it is.

    Every value is fp32 or in the format of the input, the result too; the result of an fp32
    input may have any format.
    """
    in_dtype = format_of(inputs[0])
    for node in nodes:
        if node is result or node in inputs or tensor_of(node) is None:
            continue
        form = format_of(node)
        if form not in ("fp32", in_dtype):
            return f"{node.name} is {form or 'of another format'}, the input {in_dtype}"
    out = format_of(result)
    if out in ("fp32", in_dtype) or in_dtype == "fp32":
        return None
    return f"the result is {out}, the input {in_dtype}"


__all__ = ["misfit"]
