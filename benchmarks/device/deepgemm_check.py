"""What DeepGEMM does on this GPU, asked for the capability that quantmux-deepgemm declares.

Run on a machine with the GPU: python benchmarks/device/deepgemm_check.py. Prints one table, and
ends with the shapes that the declaration leaves out, each in a process of its own: a shape that
the library traps on costs that process its CUDA context.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib import metadata
from typing import TYPE_CHECKING

import torch
from quantmux_deepgemm.fp8_gemm_nt import KERNEL
from quantmux_deepgemm.libraries import find_libraries
from quantmux_deepgemm.plugin import quantmux_probe

import quantmux as qm
from quantmux.ops.agreement import agreement
from quantmux.ops.inputs import make_matrix
from quantmux.ops.linear.weights import quantize_weight
from quantmux.ops.poison import poisoned_output
from quantmux.ops.spec import Call

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPES = [
    *((m, 4096, 7168) for m in (1, 7, 8, 9, 16, 31, 32, 33, 64, 127, 128, 129, 1024, 4096)),
    *((m, n, k) for m in (1, 5, 64, 333) for n, k in ((64, 128), (64, 256), (192, 128))),
    *((m, n, k) for m in (3, 128) for n, k in ((576, 7168), (2112, 7168), (7168, 2048))),
    *((16, n, k) for n, k in ((24576, 1536), (7168, 16384), (128, 512), (320, 640))),
]
ODD = [
    *((m, n, 512) for m in (1, 17, 130) for n in (8, 16, 24, 40, 72, 120, 136, 200, 264, 1368)),
    *((m, 256, k) for m in (1, 17, 130) for k in (16, 64, 144, 192, 1040, 1376)),
]


def inputs(
    scheme: str, m: int, n: int, k: int, kind: str = "normal", seed: int = 0
) -> tuple[qm.LinearConfig, qm.QuantizedTensor, qm.LinearWeights]:
    config = qm.LinearConfig(in_features=k, out_features=n, scheme=scheme)
    x = make_matrix(kind, m, k, "bf16", magnitude=1.0, seed=seed).cuda()
    generator = torch.Generator().manual_seed(seed + 1)
    w = torch.randn(n, k, generator=generator) * k**-0.5
    weights = quantize_weight(w, config.scheme).to("cuda")
    # a whole number of blocks is not asked for here: the widths of the odd shapes are their own
    layout = qm.Layout(scales="col_major_aligned4", padded_n=k)
    asked = qm.QuantizeConfig(operand=config.scheme.activation, n=k, layout=layout)
    return config, qm.quantize(x, asked, backend="torch"), weights


def bound(
    config: qm.LinearConfig, weights: qm.LinearWeights, device: qm.DeviceProfile
) -> Callable[..., torch.Tensor]:
    return KERNEL.bind(config, KERNEL.prepare(weights, config, device), device)


def check(
    device: qm.DeviceProfile, scheme: str, m: int, n: int, k: int, kind: str = "normal"
) -> tuple[str, float, float]:
    """Give (problem or "", error, seconds of the first call)."""
    config, q, weights = inputs(scheme, m, n, k, kind)
    run = bound(config, weights, device)
    poisoned = poisoned_output(config, m, "cuda")
    start = time.perf_counter()
    y = run(q, out=poisoned.out)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    if poisoned.overrun:
        return "wrote beside its output", 0.0, seconds
    found = agreement(config, Call((q, weights)), y)
    if not torch.equal(run(q).view(torch.int16), y.view(torch.int16)):  # NaN too
        return "twice, and other bits", found.error, seconds
    return "" if found.ok else found.reason, found.error, seconds


def launches(device: qm.DeviceProfile, m: int, n: int, k: int) -> list[str]:
    config, q, weights = inputs("fp8_block128", m, n, k)
    run = bound(config, weights, device)
    run(q)
    torch.cuda.synchronize()
    activity = torch.profiler.ProfilerActivity.CUDA
    with torch.profiler.profile(activities=[activity]) as profile:
        run(q)
        torch.cuda.synchronize()
    return [e.name[:60] for e in profile.events() if e.device_type.name == "CUDA"]


def graph(device: qm.DeviceProfile, m: int, n: int, k: int) -> bool:
    """Warm up by `warmup` alone, capture, replay on other data."""
    config, q, weights = inputs("fp8_block128", m, n, k)
    run = bound(config, weights, device)
    KERNEL.warmup(config, [m])
    out = torch.empty((m, n), dtype=torch.bfloat16, device="cuda")
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        run(q, out=out)
    _, other, _ = inputs("fp8_block128", m, n, k, seed=7)
    for mine, new in zip(q.tensors(), other.tensors(), strict=True):
        mine.copy_(new)
    captured.replay()
    torch.cuda.synchronize()
    return torch.equal(out, run(q))


def host_us(device: qm.DeviceProfile, m: int, n: int, k: int) -> float:
    config, q, weights = inputs("fp8_block128", m, n, k)
    run = bound(config, weights, device)
    out = torch.empty((m, n), dtype=torch.bfloat16, device="cuda")
    for _ in range(20):
        run(q, out=out)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(200):
        run(q, out=out)
    took = time.perf_counter() - start
    torch.cuda.synchronize()
    return took / 200 * 1e6


def imports() -> None:
    """Say how the library is found: with torch alone, and with the libraries loaded before."""
    with_torch = "import torch, deep_gemm"
    preloaded = "from quantmux_deepgemm.library import fp8_gemm_nt as f; f()"
    without = "import deep_gemm"
    environment = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
    print("LD_LIBRARY_PATH", os.environ.get("LD_LIBRARY_PATH"), "is taken away for these three:")
    for name, code in (("torch", with_torch), ("preload", preloaded), ("bare", without)):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        last = (done.stderr.strip().splitlines() or [""])[-1]
        print(f"import after {name:8} {'ok' if done.returncode == 0 else last[:150]}")


def odd_here(device: qm.DeviceProfile, start: int) -> None:
    for m, n, k in ODD[start:]:
        problem, error, _ = check(device, "fp8_block128", m, n, k)
        print(f"{problem or 'agrees':60.60} {error:.2g}", flush=True)


def odd_shapes() -> None:
    """Ask for every odd shape, going on in a new process behind one that ended the last."""
    answers: list[str] = []
    while len(answers) < len(ODD):
        done = subprocess.run(
            [sys.executable, __file__, "odd", str(len(answers))],
            capture_output=True,
            text=True,
            check=False,
        )
        answers += [line for line in done.stdout.splitlines() if line[-1:].isalnum()]
        if len(answers) < len(ODD):
            answers.append((done.stderr.strip().splitlines() or ["?"])[-1])
    for (m, n, k), answer in zip(ODD, answers, strict=True):
        if not answer.startswith("agrees"):
            print(f"odd {m:4} x {n:5} x {k:5}  {answer[:110]}")
    print(f"odd: {sum(a.startswith('agrees') for a in answers)} of {len(ODD)} agree")


def main() -> None:
    device = qm.device()
    if sys.argv[1:2] == ["odd"]:
        odd_here(device, int(sys.argv[2]))
        return
    packages = ("torch", "triton", "sgl-deep-gemm", "apache-tvm-ffi")
    print(device.name, {name: metadata.version(name) for name in packages})
    imports()
    status = quantmux_probe(device)
    print("probe", status.state, status.reasons, status.hint)
    print("libraries", {name: str(path) for name, path in find_libraries().items()})
    config = qm.LinearConfig(in_features=7168, out_features=4096, scheme="fp8_block128")
    print(qm.explain(config, device, m=16).explain())
    worst, bad, first = 0.0, 0, []
    for scheme in ("fp8_block128+exact", "fp8_block128_pow2"):
        for m, n, k in SHAPES if scheme.endswith("exact") else SHAPES[::4]:
            problem, error, seconds = check(device, scheme, m, n, k)
            worst, bad = max(worst, error), bad + bool(problem)
            first.append(seconds)
            if problem:
                print(f"BAD {scheme} {m} x {n} x {k}: {problem}")
    for kind in ("zeros", "one_hot", "outliers", "equal", "wide", "nan", "inf"):
        problem, error, _ = check(device, "fp8_block128+exact", 33, 192, 1024, kind)
        bad += bool(problem)
        print(f"{kind:9} {problem or 'agrees'} {error:.2g}")
    compiled = [s for s in first if s > 0.2]
    print(
        f"{len(first)} shapes, {bad} bad, worst error {worst:.3g}; compiled {len(compiled)}", end=""
    )
    print(f", {sum(compiled) / max(len(compiled), 1):.2f} s each")
    for shape in ((1, 64, 128), (5, 64, 128), (1, 256, 512), (16, 4096, 7168), (5, 576, 1024)):
        print("launches", shape, launches(device, *shape))
    print(
        "graph", [graph(device, *s) for s in ((1, 4096, 7168), (16, 2112, 7168), (200, 576, 512))]
    )
    print("host", [f"{host_us(device, *s):.1f} us" for s in ((16, 4096, 7168), (1, 64, 256))])
    config, q, weights = inputs("fp8_block128", 8, 256, 512)
    import deep_gemm

    try:
        y = torch.empty((8, 256), dtype=torch.float16, device="cuda")
        deep_gemm.fp8_gemm_nt((q.data, q.scales), (weights.data, weights.scales), y)
    except Exception as error:  # noqa: BLE001 - its type is the question
        print("a wrong argument raises", type(error).__mro__, str(error)[:200])
    odd_shapes()


if __name__ == "__main__":
    main()
