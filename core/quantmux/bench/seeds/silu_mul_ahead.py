"""What is compiled before anything is timed, and how many copies are worth rotating.

Both are about the time that an experiment takes, not about what it finds.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import torch

from quantmux.registry.guard import guarded

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from quantmux.bench.seeds.stage import Stage
    from quantmux.config.layers import ProducerConfig

_MOST_THREADS: Final = 16

WARM_COPIES: Final = 32
"""Copies where all that are allowed fit in the cache: enough for the calls of a graph."""


def compile_ahead(configs: Iterable[ProducerConfig], ms: Sequence[int], stage: Stage) -> None:
    """Bind producers and compile what they need for some M, in threads; nothing on a host.

    Compilers run outside Python's lock for the most part. One that does not compile costs nothing
    here: its cases will say so.
    """
    if not stage.is_cuda:
        return

    def one(config: ProducerConfig) -> None:
        with torch.cuda.device(stage.where):
            guarded(lambda: stage.producer(config).warmup(ms))

    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS), "quantmux-seeds") as pool:
        list(pool.map(one, dict.fromkeys(configs)))


def copies_for(stage: Stage, bytes_per_call: float) -> int:
    """Give how many copies of the buffers are rotated; few where all that are allowed are warm.

    Those that are more than the cache together, yet not the protocol's multiple of it, are kept:
    nearly every call finds it without its own.
    """
    copies = stage.copies(bytes_per_call)
    if copies * bytes_per_call >= stage.cache_bytes:
        return copies
    return min(copies, WARM_COPIES)
