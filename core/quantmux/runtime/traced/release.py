"""Memory that kernels keep for a stream, where inductor's CUDA-graph trees do not allow it.

With ``mode="reduce-overhead"`` inductor runs a graph once before it records it, on a stream of its
own, with every allocation of the thread going to the pool of the graphs. What is still held there
afterwards, other than outputs, is an error to it; inductor clears cuBLAS's workspaces for the same
reason. Kernels that split K keep partial sums per stream. So behind every call on that stream the
plugins are asked to let go of them (`quantmux_release`); recorded and replayed calls keep nothing.
"""

from __future__ import annotations

import sys
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch

from quantmux.runtime.context import registries

if TYPE_CHECKING:
    from collections.abc import Callable

_TREES = "torch._inductor.cudagraph_trees"


def released(run: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function behind whose calls nothing stays that CUDA-graph trees would trip over."""

    @wraps(run)
    def run_and_release(*args: Any) -> Any:
        result = run(*args)
        trees = sys.modules.get(_TREES)
        if trees is not None:
            _release(trees)
        return result

    return run_and_release


def _release(trees: Any) -> None:
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return
    device = torch.cuda.current_device()
    try:
        manager = trees.get_manager(device, create_if_none_exists=False)
    except (AssertionError, AttributeError, KeyError):
        return  # a thread that no graph was made in
    if manager is None:
        return
    stream = torch.cuda.current_stream(device).cuda_stream
    if manager.stream.cuda_stream != stream or torch.cuda.is_current_stream_capturing():
        return
    for registry in registries():
        registry.release(device, stream)
