"""What the pass did: one record per place that it could have rewritten."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from quantmux.runtime.traced.legality import Refusal, Segment


@dataclass(frozen=True, slots=True)
class Site:
    """A place in a graph that could be fused.

    Attributes:
        graph: Number of the graph, from 1, in the order in which the pass saw them.
        pattern: ``silu_mul``, ``rmsnorm``, ``shared input`` or ``equal quantize``.
        node: Node of the graph that computes the value which is quantized.
        line: Where the model computes it, ``file:line``; None where the graph does not know.
        into: What is fed: layers, or the config of a quantizer.
        taken: Whether the graph was rewritten there.
        rows: Least and greatest M that the graph can have there; None is unbounded.
        segments: Ranges of M within them, and who feeds whom.
        reasons: What else speaks against it, or is to be known.
    """

    graph: int
    pattern: str
    node: str
    line: str | None
    into: tuple[str, ...]
    taken: bool
    rows: tuple[int, int | None]
    segments: tuple[Segment, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def identity(self) -> tuple[Any, ...]:
        """What makes it the same site when the pass runs over its graph again."""
        return self.pattern, self.node, self.into, self.taken

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Every kernel that was asked and cannot serve, with its rejection."""
        return tuple(dict.fromkeys(r for s in self.segments for r in s.refusals))

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON-ready data."""
        return {
            "graph": self.graph,
            "pattern": self.pattern,
            "node": self.node,
            "line": self.line,
            "into": list(self.into),
            "taken": self.taken,
            "m_min": self.rows[0],
            "m_max": self.rows[1],
            "segments": [segment.to_dict() for segment in self.segments],
            "reasons": list(self.reasons),
        }


@dataclass(frozen=True, slots=True)
class FusionReport:
    """What a pass did so far.

    Attributes:
        graphs: Graphs that it has seen.
        from_cache: Compilations that asked for its uuid and did not run it: inductor had the
            graph, rewritten by an equal pass before.
        sites: In the order in which they were found.
    """

    graphs: int
    from_cache: int
    sites: tuple[Site, ...]

    @property
    def taken(self) -> tuple[Site, ...]:
        """Sites that were rewritten."""
        return tuple(site for site in self.sites if site.taken)

    @property
    def refused(self) -> tuple[Site, ...]:
        """Sites that were left as they are."""
        return tuple(site for site in self.sites if not site.taken)

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON-ready data."""
        counts: dict[int, dict[str, int]] = {}
        for site in self.sites:
            count = counts.setdefault(site.graph, {"taken": 0, "refused": 0})
            count["taken" if site.taken else "refused"] += 1
        return {
            "graphs": self.graphs,
            "from_cache": self.from_cache,
            "taken": len(self.taken),
            "refused": len(self.refused),
            "per_graph": [{"graph": number, **count} for number, count in sorted(counts.items())],
            "sites": [site.to_dict() for site in self.sites],
        }

    def show(self, console: Console) -> None:
        """Print it on a console of rich."""
        from quantmux.compile.view import show

        show(self, console)

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        self.show(Console(file=text, width=100, markup=False, highlight=False, emoji=False))
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


__all__ = ["FusionReport", "Site"]
