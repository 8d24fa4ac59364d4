"""Compiling what a grid will run before any of it is timed, in threads."""

from __future__ import annotations

import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.bench.contenders import pipelines_of
from quantmux.registry.guard import describe, guarded
from quantmux.runtime.waiting import patiently

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.bench.rows import BenchCase
    from quantmux.capability.device import DeviceProfile
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.runtime.context import Context

_MOST: Final = 16


def warm_grid(
    cases: Sequence[BenchCase], context: Context, device: DeviceProfile
) -> dict[str, str]:
    """Compile every kernel for every cell; gives kernel id → why it does not, where one does not.

    A kernel that does not compile costs itself only: its pipelines will say so once more.
    """
    asked: dict[tuple[str, Any], set[int]] = defaultdict(set)
    specs: dict[str, KernelSpec] = {}
    for case in cases:
        for pipeline in pipelines_of(case.config, case.m, context, device):
            for step in pipeline.steps:
                asked[step.kernel.id, step.config].add(case.m)
                specs[step.kernel.id] = step.kernel

    def one(kernel: str, config: Any, ms: set[int]) -> tuple[str, str]:
        def compile_it() -> None:
            loaded = context.load(specs[kernel])
            patiently(lambda: loaded.warmup(config, tuple(sorted(ms))))

        with torch.cuda.device(device.torch_name) if device.is_cuda else nullcontext():
            outcome = guarded(compile_it)
        return kernel, "" if outcome.error is None else describe(outcome.error)

    threads = max(1, min(os.cpu_count() or 1, _MOST))
    with ThreadPoolExecutor(threads, "quantmux-grid") as pool:
        futures = [pool.submit(one, *key, ms) for key, ms in asked.items()]
        answers = [future.result() for future in futures]
    return {kernel: reason for kernel, reason in answers if reason}
