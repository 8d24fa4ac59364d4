"""What a line of a speed table is: its cases, whose kernels, and who else runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quantmux.bench.rows import BenchCase
from quantmux.config import LinearConfig

if TYPE_CHECKING:
    from quantmux.bench.peers.base import Peer


@dataclass(frozen=True)
class Section:
    """One line of the table.

    Attributes:
        key: For `--only`.
        kernels: Patterns of our kernels.
        cases: What is measured; neighbours of one config share its weights.
        peers: Makes the others.
        twins: Also time ours launched without programmatic dependence.
        whole: Time pipelines from a plain x, also where a consumer alone reads a quantized one.
    """

    key: str
    kernels: tuple[str, ...]
    cases: tuple[BenchCase, ...]
    peers: tuple[Callable[[], Peer], ...] = field(default=())
    twins: bool = True
    whole: bool = False


def linears(
    scheme: str, shapes: Sequence[tuple[int, int]], ms: Sequence[int]
) -> tuple[BenchCase, ...]:
    """Give the cases of a linear, N×K by N×K."""
    return tuple(
        BenchCase(LinearConfig(in_features=k, out_features=n, scheme=scheme), m)
        for n, k in shapes
        for m in ms
    )
