"""fusion_pass: the pass that inductor runs over a graph."""

from __future__ import annotations

import sys
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakKeyDictionary

from torch._inductor.custom_graph_pass import CustomGraphPass

from quantmux.compile.cached import CacheWatch
from quantmux.compile.identity import uuid_of
from quantmux.compile.report import FusionReport, Site
from quantmux.compile.search import Search
from quantmux.config.policy import Policy
from quantmux.config.policy_context import current_context
from quantmux.runtime.context import Context, default_context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.fx import Graph


class FusionPass(CustomGraphPass):
    """Fuses what stands before quantized layers into the kernels that quantize for them.

    ``torch.compile(model, options={"post_grad_custom_pre_pass": fusion_pass()})``. It may be called
    on any graph of aten and quantmux ops, and does nothing where it has been before. Safe between
    threads.

    Args:
        policy: Over everything else, for the choice of fused producers.
        context: Whose kernels its uuid names; None takes the process's. Which kernels serve a
            layer is up to the context in which that layer was bound.
        cache: Whether inductor may keep, and take from its cache, what was rewritten.
    """

    def __init__(
        self, policy: Policy | None, context: Context | None, *, cache: bool = True
    ) -> None:
        self._is_cached = cache
        self._policy = policy
        self._context = context
        self._lock = RLock()
        self._sites: list[Site] = []
        self._numbers: WeakKeyDictionary[Graph, int] = WeakKeyDictionary()
        self._graphs = 0
        self._cache = CacheWatch()

    def __call__(self, graph: Graph) -> None:
        """Rewrite a graph in place, and remember every place that could have been rewritten."""
        self._cache.ran()
        with self._lock:
            number = self._numbers.get(graph)
            if number is None:
                self._graphs += 1
                number = self._numbers[graph] = self._graphs
        found = Search(graph, number, self._effective()).run()
        with self._lock:
            known = {site.identity for site in self._sites if site.graph == number}
            self._sites += (site for site in found if site.identity not in known)

    def uuid(self) -> str | None:
        """Give what inductor's cache keeps graphs by, see `identity`; None keeps it out."""
        if not self._is_cached:
            return None
        self._cache.asked()
        context = default_context() if self._context is None else self._context
        return uuid_of(self._effective(), context)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every place that was found so far."""
        with self._lock:
            return tuple(self._sites)

    def report(self, file: Any = None, *, quiet: bool = False) -> FusionReport:
        """Give what was done so far, and print it.

        Args:
            file: Where it is printed; stdout when None.
            quiet: Print nothing.
        """
        with self._lock:
            found = FusionReport(self._graphs, self._cache.hits(), tuple(self._sites))
        if not quiet:
            (sys.stdout if file is None else file).write(f"{found}\n")
        return found

    def _effective(self) -> Policy | None:
        """Give the policy of the pass over that of the ``with`` block it runs in."""
        outer = current_context()
        if outer is None or self._policy is None:
            return self._policy if outer is None else outer
        return outer.overlaid(self._policy)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # torch.compile copies its options, and what it finds belongs in one report

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(fusion_pass, cache=self._is_cached), (self._policy,)


def fusion_pass(
    policy: Policy | Mapping[str, Any] | None = None,
    *,
    context: Context | None = None,
    cache: bool = True,
) -> FusionPass:
    """Give a pass for ``torch.compile(model, options={"post_grad_custom_pre_pass": …})``.

    It replaces SiLU·mul or RMSNorm before a quantized layer by a kernel that quantizes too, and
    lets layers that read one tensor share one quantized form of it, where a backend offers exactly
    the operand, layout and padding that the layers read.

    Args:
        policy: For the choice of fused producers, over everything else: ``{"deny": […]}``.
        context: Registry and quarantine for the uuid; None takes the process's.
        cache: Let inductor take graphs from its cache. They are rewritten already, and the pass
            does not run: the report can only count them. False compiles anew, and reports all.

    Raises:
        ConfigError: The policy has a key or value that no policy has.
    """
    if policy is not None and not isinstance(policy, Policy):
        policy = Policy(**policy)
    return FusionPass(policy, context, cache=cache)


__all__ = ["FusionPass", "fusion_pass"]
