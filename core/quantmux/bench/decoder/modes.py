"""Modes: the ways in which one variant takes a step, each checked before it is timed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import torch

from quantmux.bench.decoder.compiled import Compiled, compiled, mark_rows
from quantmux.bench.decoder.variants import BF16
from quantmux.bench.decoder.watch import EagerStep, GraphStep, HostStep
from quantmux.bench.watch_cuda import raise_if_lost
from quantmux.registry.guard import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from quantmux.bench.decoder.check import Distance, Judge
    from quantmux.bench.decoder.state import State
    from quantmux.bench.decoder.variants import Variant
    from quantmux.bench.timing import Timed
    from quantmux.compile import FusionPass
    from quantmux.runtime.context import Context

EAGER: Final = "eager"
COMPILED: Final = "compiled"
FUSED: Final = "fused"
GRAPH: Final = "graph"


@dataclass(slots=True, eq=False)
class Entry:
    """One variant in one mode at one number of rows.

    Attributes:
        variant: Who.
        mode: How.
        watch: Times it; None where it failed.
        checks: What was compared.
        reason: Why it failed, "" where it did not.
    """

    variant: Variant
    mode: str
    watch: Timed | None = None
    checks: tuple[Distance, ...] = ()
    reason: str = ""


class Modes:
    """Makes the entries of one case after the other; what was compiled serves all of them.

    Args:
        context: Plugins of the fusion pass.
        compile_for: Names of the variants that are also compiled.
        fuse_for: Names of those that are also compiled with quantmux's pass.
        on_cuda: Time by events and as graphs; else by the host's clock.
        backend: Of torch.compile.
        round_us: Least time of a round.
    """

    def __init__(
        self,
        context: Context,
        compile_for: Collection[str],
        *,
        fuse_for: Collection[str],
        on_cuda: bool,
        backend: str = "inductor",
        round_us: float,
    ) -> None:
        self._context = context
        self._compile_for = compile_for
        self._fuse_for = fuse_for
        self._on_cuda = on_cuda
        self._backend = backend
        self._round_us = round_us
        self._compiled: dict[tuple[str, str], Compiled] = {}
        self.fusions: dict[str, FusionPass] = {}

    def entries(self, variant: Variant, state: State, judge: Judge) -> Iterator[Entry]:
        """Give the entries of a variant; one that fails says why and has no watch.

        Args:
            variant: Warm.
            state: What the step is given.
            judge: Of their results.
        """
        model = variant.model
        yield from self._pair(variant, EAGER, partial(model, *state.args), judge)
        if variant.name not in self._compile_for:
            return
        for mode in (COMPILED, FUSED):
            if mode == FUSED and variant.name not in self._fuse_for:
                continue
            made = self._made(variant, mode)
            mark_rows(state)
            yield from self._pair(variant, mode, partial(made.step, *state.args), judge, made)

    def _made(self, variant: Variant, mode: str) -> Compiled:
        key = (variant.name, mode)
        if key not in self._compiled:
            fusion = None
            if mode == FUSED:
                from quantmux.compile import fusion_pass  # it loads inductor

                # a graph from inductor's cache was rewritten in another run, and not reported
                fusion = fusion_pass(variant.fusing, context=self._context, cache=False)
                self.fusions[variant.name] = fusion
            self._compiled[key] = compiled(variant.model, fusion=fusion, backend=self._backend)
        return self._compiled[key]

    @property
    def compile_seconds(self) -> dict[str, list[float]]:
        """Give what the first call of each case took: those that compiled stand out."""
        return {
            f"{name} {mode}": [round(s, 2) for s in made.seconds]
            for (name, mode), made in self._compiled.items()
        }

    def _pair(
        self,
        variant: Variant,
        mode: str,
        step: Callable[[], torch.Tensor],
        judge: Judge,
        made: Compiled | None = None,
    ) -> Iterator[Entry]:
        """Give a step as it is called, and as a CUDA graph."""
        try:
            begun = time.perf_counter()
            y = step()
            if y.is_cuda:
                torch.cuda.synchronize()
            if made is not None:
                made.seconds.append(time.perf_counter() - begun)
            found = judge.compare(y, mode, quantized=variant.name != BF16)
            if not found.ok:
                yield Entry(variant, mode, checks=(found,), reason=str(found))
                return
            watch: Timed = (EagerStep if self._on_cuda else HostStep)(step, self._round_us)
        # a plugin's code, a compiler or a capture may raise anything; it costs that row only
        except Exception as error:  # noqa: BLE001
            raise_if_lost(error)
            yield Entry(variant, mode, reason=describe(error))
            return
        yield Entry(variant, mode, watch, (found,))
        if self._on_cuda:
            yield self._graph(variant, mode, step, judge, y)

    def _graph(
        self,
        variant: Variant,
        mode: str,
        step: Callable[[], torch.Tensor],
        judge: Judge,
        y: torch.Tensor,
    ) -> Entry:
        name = GRAPH if mode == EAGER else f"{mode} {GRAPH}"
        try:
            watch = GraphStep(step, self._round_us)
            same = judge.same(watch.replay(), y, f"{name} against {mode}")
        # likewise
        except Exception as error:  # noqa: BLE001
            raise_if_lost(error)
            torch.cuda.synchronize()
            return Entry(variant, name, reason=describe(error))
        if not same.ok:
            return Entry(variant, name, checks=(same,), reason=str(same))
        return Entry(variant, name, watch, (same,))
