"""The four speed figures of the foundation, on the machine at hand, as ratios to their targets.

    python benchmarks/foundation.py [--out FILE]

Host time only: no GPU is used, and the kernels of the bound-call figure do nothing, so that what is
measured is what quantmux adds. Every figure is the median of several rounds; an A/A row (the same
thing measured twice) says how much of a difference is noise.
"""

from __future__ import annotations

import argparse
import datetime as dt
import gc
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepseek_headers
from idle_backend import many_kernels, one_pipeline

ROUNDS = 9
Row = dict[str, Any]


def rounds_us(call: Callable[[], object], calls: int, rounds: int = ROUNDS) -> list[float]:
    """Give µs per call, one figure per round."""
    found = []
    gc.disable()
    try:
        for _ in range(rounds):
            start = time.perf_counter()
            for _ in range(calls):
                call()
            found.append((time.perf_counter() - start) / calls * 1e6)
    finally:
        gc.enable()
    return found


def row(op: str, case: str, us: float, target_us: float | None, **more: Any) -> Row:
    """Give one row of the result; ratio = target / measured, so above 1 is within the target."""
    ratio = None if target_us is None else round(target_us / us, 3) if us > 0 else None
    return {
        "op": op,
        "case": case,
        "us": round(us, 3),
        "target_us": target_us,
        "ratio": ratio,
    } | more


def imports() -> list[Row]:
    """Time the imports in fresh interpreters, and see that torch stays out."""
    rows = []
    for module in ("quantmux", "quantmux.config"):
        code = (
            "import sys, time; t = time.perf_counter(); "
            f"import {module}; d = time.perf_counter() - t; "
            "print(d, 'torch' in sys.modules)"
        )
        times, has_torch = [], False
        for _ in range(ROUNDS):
            answer = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            ).stdout.split()
            times.append(float(answer[0]) * 1e6)
            has_torch |= answer[1] == "True"
        rows.append(row("import", module, statistics.median(times), None, imports_torch=has_torch))
    return rows


def selecting() -> list[Row]:
    """Time select over 100 registered kernels: first of a context, a new config, asked again."""
    import quantmux as qm
    from quantmux.registry.default import set_default_registry

    registry = many_kernels(100)
    set_default_registry(registry)
    first, cold = [], []
    for n in range(1024, 1024 + 64 * 30, 64):
        config = qm.LinearConfig(in_features=7168, out_features=n, scheme="fp8_block128")
        start = time.perf_counter()
        qm.select(config, device="h200")
        (first if n == 1024 else cold).append((time.perf_counter() - start) * 1e6)
    cached = rounds_us(lambda: qm.select(config, device="h200"), 20_000)
    case = f"{len(registry.kernels)} kernels"
    set_default_registry(None)
    return [
        row("select", f"{case}, first of the process", first[0], None),
        row("select", f"{case}, cold", statistics.median(cold), 5000.0, worst_us=max(cold)),
        row("select", f"{case}, cached", statistics.median(cached), 10.0),
    ]


def bound_call() -> list[Row]:
    """Time what a bound linear adds to calling its producer and consumer directly."""
    import torch

    import quantmux as qm
    from quantmux.registry.default import set_default_registry

    registry, producer, consumer = one_pipeline()
    set_default_registry(registry)
    weight = torch.randn(256, 256)
    layer = qm.Linear.from_float(weight, scheme="fp8_channel_token", in_dtype="bf16", device="cpu")
    x = torch.randn(4, 256, dtype=torch.bfloat16)
    x3 = x.reshape(2, 2, 256)
    with torch.inference_mode():
        layer(x)
        bound = layer.bind()
        produce, consume = producer.run, consumer.run
        calls = 20_000
        variants: dict[str, Callable[[], object]] = {
            "direct": lambda: consume(produce(x), out=None),
            "direct again (A/A)": lambda: consume(produce(x), out=None),
            "bound": lambda: bound(x),
            "bound.call": lambda: bound.call(x),
            "module, 2-D x": lambda: layer(x),
            "module, 3-D x (reshape)": lambda: layer(x3),
        }
        times: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(ROUNDS):  # interleaved, so that a slow spell hits all of them
            for name, call in variants.items():
                times[name] += rounds_us(call, calls, 1)
    set_default_registry(None)
    medians = {name: statistics.median(found) for name, found in times.items()}
    base = medians["direct"]
    noise = abs(medians["direct again (A/A)"] - base)
    rows = [row("bound_call", "kernels called directly", base, None, aa_noise=round(noise, 3))]
    for name in ("bound.call", "bound", "module, 2-D x", "module, 3-D x (reshape)"):
        extra = medians[name] - base
        target = 1.0 if name in ("bound", "bound.call") else None
        rows.append(row("bound_call", f"added by {name}", extra, target, aa_noise=round(noise, 3)))
    return rows


def planning() -> list[Row]:
    """Time plan over the headers of a DeepSeek-V3-shaped checkpoint, all experts included."""
    import quantmux as qm

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "deepseek"
        linears = deepseek_headers.write(root)
        times, to_json = [], []
        for _ in range(3):
            start = time.perf_counter()
            plan = qm.plan(root, device="h200")
            times.append((time.perf_counter() - start) * 1e6)
            start = time.perf_counter()
            size = len(plan.to_json())
            to_json.append((time.perf_counter() - start) * 1e6)
    case = f"61 layers, {linears} linears"
    return [
        row("plan", f"{case}, open + select", statistics.median(times), 5e6, worst_us=max(times)),
        row("plan", f"{case}, as JSON ({size / 1e6:.0f} MB)", statistics.median(to_json), None),
    ]


def versions() -> dict[str, str]:
    """Give the versions that the figures depend on."""
    from importlib import metadata

    names = ("quantmux", "torch", "pydantic", "pluggy")
    return {"python": platform.python_version()} | {n: metadata.version(n) for n in names}


def main() -> int:
    """Measure, print a table, write the JSON."""
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parent / "results" / f"{today}-cpu-foundation.json"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    rows: list[Row] = []
    for part in (imports, selecting, bound_call, planning):
        rows += part()
    result = {
        "device": "cpu",
        "machine": f"{platform.machine()}, {platform.system()}",
        "date": today,
        "versions": versions(),
        "ceilings": {},
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{'figure':<12} {'case':<46} {'µs':>12} {'target µs':>10} {'target/µs':>9}")
    for r in rows:
        target = "" if r["target_us"] is None else f"{r['target_us']:,.0f}"
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.2f}"
        print(f"{r['op']:<12} {r['case']:<46} {r['us']:>12,.2f} {target:>10} {ratio:>9}")
    missed = [r for r in rows if r["ratio"] is not None and r["ratio"] < 1]
    print(f"written to {options.out}; {len(missed)} of {len(rows)} rows miss their target")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
