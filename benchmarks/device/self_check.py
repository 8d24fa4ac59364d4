"""First-use self-check on the GPU at hand: its cost, and what becomes of wrong kernels.

    python benchmarks/device/self_check.py

A plugin offers torch's own FP8 GEMM under its own name, hence without evidence, and three broken
copies of it: zeros, memory left as it was found, one column wrong. Each is bound in turn. Exits
with 1 unless the right one serves and each wrong one is kept away, for its own fault.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["QUANTMUX_CACHE_DIR"] = tempfile.mkdtemp()

import torch

import quantmux as qm
from quantmux.capability.detect import resolve_device
from quantmux.ops.linear.weights import quantize_weight
from quantmux.registry.manager import Registry
from quantmux.runtime.binding import bind
from quantmux.runtime.context import Context
from quantmux_torch import plugin as torch_plugin

HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"
COPIED = "torch/linear_scaled_mm_row" if HAS_GPU else "torch/linear_scaled_mm_cpu"
KERNEL = Registry.of({"torch": torch_plugin}).load_kernel(COPIED)

FAULTS = ("right", "zeros", "untouched", "one_column")


class Faulty:
    def __init__(self, fault: str) -> None:
        self.fault = fault

    def prepare(self, weights: Any, config: Any, device: Any) -> Any:
        return replace(KERNEL.prepare(weights, config, device), weight_layout="lab:row")

    def bind(self, config: Any, prepared: Any, device: Any) -> Any:
        run = KERNEL.bind(config, prepared, device)

        def call(x: Any, out: Any = None) -> torch.Tensor:
            if self.fault == "untouched":
                return run(x).copy_(out) if out is not None else torch.empty_like(run(x))
            y = run(x, out=out)
            if self.fault == "zeros":
                y.zero_()
            if self.fault == "one_column":
                y[:, -1] *= 1.25
            return y

        return run if self.fault == "right" else call

    def warmup(self, config: Any, ms: Any) -> None:
        KERNEL.warmup(config, ms)


def lab_plugin(fault: str) -> types.ModuleType:
    module = types.ModuleType("quantmux_lab_plugin")
    module.__dict__[f"KERNEL_{fault}"] = Faulty(fault)
    sys.modules[module.__name__] = module
    spec = next(s for s in torch_plugin.quantmux_kernels() if s.id == COPIED)
    mine = replace(
        spec,
        id=f"lab/{fault}",
        load=f"{module.__name__}:KERNEL_{fault}",
        capability=spec.capability.replace(weight_layout="lab:row"),
        sources=(),
        version=fault,
    )

    @qm.hookimpl
    def quantmux_backend() -> Any:
        return qm.BackendInfo(name="lab", version="1")

    @qm.hookimpl
    def quantmux_kernels() -> Any:
        return (mine,)

    module.quantmux_backend = quantmux_backend
    module.quantmux_kernels = quantmux_kernels
    return module


def settle() -> None:
    if HAS_GPU:
        torch.cuda.synchronize()


def main() -> int:
    device = resolve_device(DEVICE)
    config = qm.LinearConfig(in_features=4096, out_features=4096, scheme="fp8_channel_token")
    weights = quantize_weight(torch.randn(4096, 4096, device=DEVICE) / 64, config.scheme)
    torch.ones(8, 8, device=DEVICE) @ torch.ones(8, 8, device=DEVICE)  # cuBLAS wakes up here
    bad = 0
    print(f"{device}, torch {torch.__version__}, driver {device.driver}")
    print(f"{'kernel':16} {'first ms':>9} {'again ms':>9} {'never ms':>9}  what serves, and why")
    for fault in FAULTS:
        policy = qm.Policy(order=("lab", "torch"))
        registry = Registry.of({"lab": lab_plugin(fault), "torch": torch_plugin}, policy)
        times = []
        for overrides in ({}, {}, {"self_check": "never"}):
            context = Context(registry)
            chosen = context.select(config, device, m=16, call_overrides=overrides)
            settle()
            start = time.perf_counter()
            bound = bind(chosen, weights, context=context)
            settle()
            times.append((time.perf_counter() - start) * 1e3)
            if len(times) == 1:
                served = bound.pipeline_for(16).ids[-1]
                why = "; ".join(event.reason for event in bound.events)
        bad += served.startswith("lab/") != (fault == "right")
        print(
            f"lab/{fault:12} {times[0]:9.1f} {times[1]:9.1f} {times[2]:9.1f}  {served}  {why[:150]}"
        )
    kept = Path(os.environ["QUANTMUX_CACHE_DIR"])
    print("kept:", *sorted(p.name for p in kept.iterdir() if p.suffix == ".json"))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
