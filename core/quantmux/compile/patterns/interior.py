"""What lies between the input of a pattern and its result, and what of it is read elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux.compile.patterns.columns import keeps_elements, way_up
from quantmux.compile.patterns.facts import part_of, tensor_inputs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch.fx import Node


def in_order(nodes: Iterable[Node], result: Node, inputs: Iterable[Node]) -> tuple[Node, ...]:
    """Give nodes in the order of their graph, each once, without the result and the inputs."""
    wanted = set(nodes) - {result, *inputs}
    return tuple(node for node in result.graph.nodes if node in wanted)


def read_elsewhere(
    interior: tuple[Node, ...], result: Node, inputs: Iterable[Node]
) -> tuple[Node, ...]:
    """Give the nodes whose value somebody else reads, too.

    Views and exact casts of the inputs are left out: they cost nothing that a fusion would save.
    """
    inside = _dying({result, *interior}, result, inputs)
    free = set(inputs)
    found: list[Node] = []
    for node in interior:
        piece = part_of(node)
        sources = tensor_inputs(node) if piece is None else piece[:1]
        if keeps_elements(node) and all(one in free for one in sources):
            free.add(node)
        elif any(user not in inside for user in node.users):
            found.append(node)
    return tuple(found)


def _dying(inside: set[Node], result: Node, inputs: Iterable[Node]) -> set[Node]:
    """Add what only the inside reads, such as the rest of a tensor written in place; dead views."""
    kept = set(inputs)
    for node in reversed(result.graph.nodes):
        if node in kept or not (node.users or keeps_elements(node)):
            continue
        if all(user in inside for user in node.users):
            inside.add(node)
    return inside


def passed_to(leaf: Node, inputs: tuple[Node, ...], n: int) -> tuple[Node, ...]:
    """Give the nodes from a place where the input is read up to the input."""
    return next((p.passed for p in reversed(way_up(leaf, n)) if p.node in inputs), ())


__all__ = ["in_order", "passed_to", "read_elsewhere"]
