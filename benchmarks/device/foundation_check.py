"""Drive the whole of quantmux on the GPU at hand: every scheme through `Linear`, every producer.

Needs quantmux installed with its entry points. Checks `Linear` against the fp64 definition of the
pipeline that was taken, producers bit for bit against the CPU's reference, kernel launches against
what capabilities declare, CUDA-graph capture and replay, and moving a bound layer between devices.
Prints one line per check, a summary last, and writes ``$OUT/foundation_check.json``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import quantmux as qm
from quantmux.ops.linear.reference import linear_exact
from quantmux.ops.linear.tolerance import compare, linear_magnitude
from quantmux.ops.quantize.compare import compare_quantized
from quantmux.ops.spec import op_spec

SHAPES = ((2112, 7168), (576, 7168), (4096, 4096), (1000, 1368))
MS = (1, 3, 16, 17, 128, 1024)
SCHEMES = (
    "fp8_tensor",
    "fp8_channel_token",
    "fp8_tensor_token",
    "fp8_block128",
    "fp8_block128_pow2",
    "fp8_w8a16",
    "nvfp4_dynamic",
    "nvfp4_w4a16",
    "int8_channel_token",
)
results: list[dict[str, Any]] = []


def check(name: str, run: Callable[[], dict[str, Any] | None]) -> None:
    """Run one check; keep what it found, or the exception."""
    start = time.perf_counter()
    try:
        found = run() or {}
        found.setdefault("ok", True)
    except Exception as error:  # noqa: BLE001 - a check that breaks is a result
        found = {"ok": False, "error": f"{type(error).__name__}: {error}"[:600]}
        traceback.print_exc(limit=4)
    found |= {"check": name, "seconds": round(time.perf_counter() - start, 2)}
    results.append(found)
    print(
        ("ok   " if found["ok"] else "FAIL "),
        name,
        {k: v for k, v in found.items() if k not in ("ok", "check")},
    )


def linear(scheme: str, n: int, k: int) -> dict[str, Any]:
    """Check one scheme and shape at every M."""
    torch.manual_seed(n + k)
    weight = torch.randn(n, k, device="cuda") * 0.05
    bias = torch.randn(n, device="cuda", dtype=torch.bfloat16)
    layer = qm.Linear.from_float(weight, scheme=scheme, bias=bias, in_dtype="bf16")
    weights = layer.weights
    worst, kernels, bad = 0.0, set(), []
    for m in MS:
        x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
        y = layer(x)
        pipeline = layer.bind().pipeline_for(m)
        kernels.add(f"{pipeline} [{pipeline.tier}]")
        want = linear_exact(x, weights, layer.config)
        found = compare(
            y, want, config=layer.config, magnitude=linear_magnitude(x, weights, layer.config)
        )
        worst = max(worst, found.worst)
        if not found.ok:
            bad.append(
                {
                    "m": m,
                    "rel_error": found.rel_error,
                    "tolerance": found.tolerance,
                    "first": str(found.first_bad),
                }
            )
    events = [e.reason for e in layer.bind().events]
    return {
        "ok": not bad and not events,
        "worst": round(worst, 3),
        "kernels": sorted(kernels),
        "bad": bad,
        "events": events,
    }


def producers(op: str) -> dict[str, Any]:
    """Check a producer's small cases on the GPU against the CPU: to the bit, or by its freedom.

    silu_mul_quantize goes through exp, whose last bit differs between processors: its cases are
    judged by the op's own comparison, and the number that are not bit-equal is reported.
    """
    spec = op_spec(op)
    count, bad, freely = 0, [], 0
    for case in spec.cases():
        if not case.is_small:
            continue
        call = spec.inputs(case, "cpu", 3)
        on_cpu = reference_on(spec, case, "cpu")
        on_gpu = on_the_cpu(reference_on(spec, case, "cuda"))
        count += 1
        pairs = zip(on_gpu.tensors(), on_cpu.tensors(), strict=True)
        if all(same_bits(a, b) for a, b in pairs):
            continue
        freely += 1
        if op != "silu_mul_quantize" or spec.values is None:
            bad.append(str(case)[:200])
            continue
        found = compare_quantized(on_gpu, on_cpu, values=spec.values(*call.args, case.config))
        if not found.ok:
            bad.append(f"{case}: {found}"[:300])
    return {
        "ok": not bad and count > 0,
        "cases": count,
        "not_bit_equal": freely,
        "differ": bad[:5],
        "differing": len(bad),
    }


def on_the_cpu(q: qm.QuantizedTensor) -> qm.QuantizedTensor:
    """Bring a quantized tensor to the CPU with its strides."""
    scales = torch.empty_strided(q.scales.shape, q.scales.stride(), dtype=q.scales.dtype)
    if q.scales.numel():
        storage = q.scales.untyped_storage().cpu()
        scales = torch.tensor([], dtype=q.scales.dtype).set_(
            storage, q.scales.storage_offset(), q.scales.shape, q.scales.stride()
        )
    g = None if q.global_scale is None else q.global_scale.cpu()
    data = q.data.cpu() if q.data.is_contiguous() else q.data.transpose(0, 1).cpu().transpose(0, 1)
    return dataclasses.replace(q, data=data, scales=scales, global_scale=g)


def reference_on(spec: Any, case: Any, device: str) -> qm.QuantizedTensor:
    """Run a case's reference on a device, with the same inputs on every device."""
    call = spec.inputs(case, device, 3)
    return spec.reference(*call.args, case.config, **call.kwargs)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Tell whether two tensors hold the same bytes; NaN equals NaN of the same bits."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    raw = [t.contiguous().clone(memory_format=torch.contiguous_format) for t in (a, b)]
    return torch.equal(*(t.reshape(-1).view(torch.uint8) for t in raw)) if a.numel() else True


def capture() -> dict[str, Any]:
    """Capture a bound layer in a CUDA graph and replay it on new input."""
    layer = qm.Linear.from_float(
        torch.randn(4096, 4096, device="cuda") * 0.02, scheme="fp8_channel_token", in_dtype="bf16"
    )
    layer.warmup((64,))
    x = torch.randn(64, 4096, device="cuda", dtype=torch.bfloat16)
    with torch.inference_mode():
        layer(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = layer(x)
        x.copy_(torch.randn_like(x))
        graph.replay()
        torch.cuda.synchronize()
        want = layer(x)
    return {"ok": torch.equal(y, want)}


def moving() -> dict[str, Any]:
    """Move a bound layer to the CPU and back: same canonical bits, new kernels."""
    layer = qm.Linear.from_float(
        torch.randn(256, 512, device="cuda"), scheme="fp8_block128", in_dtype="bf16"
    )
    x = torch.randn(8, 512, device="cuda", dtype=torch.bfloat16)
    first = layer(x)
    state = {k: v.cpu() for k, v in layer.state_dict().items()}
    layer.cpu()
    on_cpu = layer(x.cpu())
    layer.cuda()
    again = layer(x)
    same = all(
        torch.equal(v.cpu().view(torch.uint8), state[k].view(torch.uint8))
        for k, v in layer.state_dict().items()
    )
    close = float((on_cpu.float() - first.cpu().float()).norm() / first.cpu().float().norm())
    return {"ok": same and torch.equal(first, again) and close < 1e-2, "cpu_distance": close}


def main() -> int:
    """Run all checks."""
    print(qm.device(), torch.__version__)
    check(
        "device",
        lambda: {
            "ok": qm.device().name != "cpu",
            "name": qm.device().name,
            "arch": str(qm.device().arch),
        },
    )
    for scheme in SCHEMES:
        for n, k in SHAPES:
            if scheme.startswith("nvfp4") and k % 16:
                continue
            check(f"linear {scheme} {n}x{k}", lambda s=scheme, n=n, k=k: linear(s, n, k))
    for op in ("quantize", "silu_mul_quantize", "inverse_rope_quantize"):
        check(f"producer {op}, GPU against CPU", lambda op=op: producers(op))
    check("cuda graph", capture)
    check("move to the CPU and back", moving)
    failed = [r for r in results if not r["ok"]]
    out = Path(os.environ.get("OUT", ".")) / "foundation_check.json"
    out.write_text(
        json.dumps(
            {"device": qm.device().title, "torch": torch.__version__, "results": results}, indent=1
        )
    )
    print("\nstats", qm.stats())
    print(f"\n{len(results) - len(failed)} of {len(results)} checks passed")
    for r in failed:
        print("FAIL", json.dumps(r)[:900])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
