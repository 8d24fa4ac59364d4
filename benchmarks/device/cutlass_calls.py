"""What the host needs for one call of a CUTLASS linear, and how many kernels a padded one launches.

    python benchmarks/device/cutlass_calls.py FOLDER

Needs an sm90 GPU, an installed quantmux and built libraries. Writes
``FOLDER/<date>-<device>-cutlass-calls.json``: medians over batches of calls that are queued behind
an idle GPU, in turns, µs; and the kernels that the profiler saw in one call.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch

from quantmux.bench.contenders import Binder, pipelines_of
from quantmux.bench.materials import Materials
from quantmux.bench.run import versions
from quantmux.capability.detect import resolve_device
from quantmux.config import LinearConfig
from quantmux.dispatch.pipeline import Pipeline
from quantmux.runtime.context import default_context
from quantmux.runtime.steps import build

BATCHES: Final = 30
CALLS: Final = 100
M: Final = 16
SHAPE: Final = (4096, 4096)
PADDED: Final = (2048, 1368)
ODD: Final = (1000, 1000)


def host_us(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Give the median µs to queue each call, in turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(BATCHES + 1):
        for name, call in calls.items():
            torch.cuda.synchronize()
            begin = time.perf_counter()
            for _ in range(CALLS):
                call()
            took = time.perf_counter() - begin
            if turn:
                times[name].append(took / CALLS * 1e6)
    return {name: median(found) for name, found in times.items()}


def launches(call: Callable[[], Any]) -> list[str]:
    """Give the names of the kernels, copies and fills of one call."""
    call()
    torch.cuda.synchronize()
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        call()
        torch.cuda.synchronize()
    on_gpu = torch.autograd.DeviceType.CUDA
    return [e.name.partition("(")[0][:80] for e in profile.events() if e.device_type == on_gpu]


@dataclass(frozen=True)
class Linear:
    """One linear in three forms.

    Attributes:
        alone: The kernel's own function on a quantized x, as a pipeline calls it.
        checked: The same behind the checks that a `QuantizedTensor` of the caller's gets.
        whole: The pipeline from a plain x.
        q: The quantized x.
    """

    alone: Callable[..., Any]
    checked: Callable[..., Any]
    whole: Callable[[], Any]
    q: Any


def linear(shape: tuple[int, int], m: int, scheme: str, kernel: str) -> Linear:
    """Give a linear bound to a kernel, behind one of Triton's producers."""
    n, k = shape
    config = LinearConfig(in_features=k, out_features=n, scheme=scheme)
    device, context = resolve_device("cuda:0"), default_context()
    pipeline = next(
        p
        for p in pipelines_of(config, m, context, device, only=[kernel])
        if p.main.id == kernel and len(p.steps) == 2 and p.ids[0].startswith("triton/")
    )
    materials = Materials(config, device)
    binder = Binder(context, materials)
    inputs = binder.materials.inputs(m, 1)
    whole = binder.contender(pipeline, inputs).calls[0]
    first, last = pipeline.steps
    q = build(Pipeline((first,), pipeline.tier), context, device).run(inputs[0].args[0])
    loaded = context.load(last.kernel)
    prepared = loaded.prepare(materials.weights, last.config, device)
    alone = loaded.bind(last.config, prepared, device)
    return Linear(alone, binder.builts(pipeline, 1)[0].run, whole, q)


def calls_of(scheme: str, kernel: str) -> dict[str, Callable[[], Any]]:
    """Give a kernel's calls: with and without ``out=``, checked, and the pipeline."""
    made = linear(SHAPE, M, scheme, kernel)
    y = made.alone(made.q)
    return {
        f"{kernel}, out= given": partial(made.alone, made.q, out=y),
        f"{kernel}": partial(made.alone, made.q),
        f"{kernel}, checked as a caller's x": partial(made.checked, made.q),
        f"{kernel}, behind Triton's quantizer": made.whole,
    }


def scaled_mm() -> Callable[[], Any]:
    """Give ``torch._scaled_mm`` with row-wise scales on the same shape."""
    n, k = SHAPE
    a = torch.randn(M, k, device="cuda").to(torch.float8_e4m3fn)
    w = torch.randn(n, k, device="cuda").to(torch.float8_e4m3fn)
    product: Any = torch._scaled_mm  # noqa: SLF001 - torch has no public name for it
    return partial(
        product,
        a,
        w.T,
        scale_a=torch.rand(M, 1, device="cuda"),
        scale_b=torch.rand(1, n, device="cuda"),
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


def main(folder: Path) -> None:
    calls: dict[str, Callable[[], Any]] = {
        "torch._scaled_mm, row-wise": scaled_mm(),
        "torch.empty(16, 4096)": partial(
            torch.empty, M, SHAPE[0], dtype=torch.bfloat16, device="cuda"
        ),
    }
    row, block = "fp8_channel_token", "fp8_block128"
    for scheme, kernel in (
        (row, "cutlass/linear_fp8_small_m"),
        (row, "cutlass/linear_fp8"),
        (block, "cutlass/linear_fp8_block_small_m"),
        (block, "cutlass/linear_fp8_block"),
        (row, "triton/linear_fp8_small_m"),
    ):
        calls |= calls_of(scheme, kernel)
    found = host_us(calls)
    counted: list[dict[str, Any]] = []
    for shape in (PADDED, ODD):
        for m, kernel in ((M, "cutlass/linear_fp8_small_m"), (1024, "cutlass/linear_fp8")):
            names = launches(linear(shape, m, row, kernel).whole)
            what = f"a call of {kernel}, N×K = {shape[0]}×{shape[1]}, M = {m}"
            counted.append({"what": what, "count": len(names), "names": names})
    device = resolve_device("cuda:0")
    date = datetime.now(UTC).date().isoformat()
    result = {
        "device": device.name,
        "date": date,
        "versions": versions(device),
        "batches": BATCHES,
        "calls_per_batch": CALLS,
        "m": M,
        "n": SHAPE[0],
        "k": SHAPE[1],
        "calls": [{"what": name, "us": us} for name, us in found.items()],
        "launches": counted,
    }
    file = folder / f"{date}-{device.name}-cutlass-calls.json"
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print_short(result["calls"], counted)


def print_short(calls: Sequence[dict[str, Any]], counted: Sequence[dict[str, Any]]) -> None:
    for row in calls:
        print(f"{row['us']:7.2f} µs  {row['what']}")
    for row in counted:
        print(f"{row['count']} launches  {row['what']}: {', '.join(row['names'])}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
