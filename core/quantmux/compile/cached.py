"""Whether inductor took a graph from its cache, in which case no pass has seen it."""

from __future__ import annotations

from threading import Lock, local


class CacheWatch:
    """Counts compilations that looked into the cache and did not run the pass.

    Inductor asks for a pass's uuid when it looks a graph up. When its counters of found graphs
    have grown at the next thing that happens, and the pass has not run, it had the graph.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._hits = 0
        self._local = local()
        self._watching: dict[int, int] = {}

    def asked(self) -> None:
        """Note that the uuid was asked for."""
        self._settle()
        self._local.before = _found_so_far()

    def ran(self) -> None:
        """Note that the pass runs: the graph was not in the cache."""
        self._local.before = None

    def hits(self) -> int:
        """Give how many graphs came from the cache, as far as this thread can tell."""
        self._settle()
        return self._hits

    def _settle(self) -> None:
        before = getattr(self._local, "before", None)
        if before is not None and _found_so_far() > before:
            with self._lock:
                self._hits += 1
            self._local.before = None


def _found_so_far() -> int:
    from torch._dynamo.utils import counters

    graphs = counters["inductor"]["fxgraph_cache_hit"]
    return int(graphs + counters["aot_autograd"]["autograd_cache_hit"])


__all__ = ["CacheWatch"]
