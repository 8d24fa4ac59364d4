"""What a new token count costs inverse RoPE + quantization: compiled variants, stalls, steady time.

Run on a machine with the GPU: python benchmarks/device/inverse_rope_variants.py OUT. Every way of
launching runs in a process of its own with an empty Triton cache, over the same token counts:

    before   one warp, one head a program; nothing pinned
    seed     the same kernel with `num_tokens` pinned, its strides not
    own-before, own-count   quantmux's kernel with those two ways of pinning
    ours     quantmux's kernel as it is

A variant is a compilation that Triton tells of. A stall is what the first call with a token count
takes beyond its fifth. Steady times are of a CUDA graph over buffers that together are past the
cache. Prints a table and writes OUT/inverse_rope_variants.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
import triton
from inverse_rope_one_head_kernel import one_head

import quantmux as qm
from quantmux.capability.profiles import profile
from quantmux.ops.inverse_rope_quantize.spec import empty_grouped, make_cos_sin_cache
from quantmux_triton.inverse_rope_quantize import tokens
from quantmux_triton.inverse_rope_quantize.tokens_kernel import inverse_rope_kernel

if TYPE_CHECKING:
    from collections.abc import Callable

    Call = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, qm.QuantizedTensor], object]

TOKENS = (1, 2, 7, 13, 16, 17, 33, 48, 100, 128, 500, 512, 1000, 1024, 4096)
WAYS = ("before", "seed", "own-before", "own-count", "ours")
DIM, ROPE, GROUP = 512, 64, 128
PAST_THE_CACHE = 300e6
CALLS = 40


def one_head_call(heads: int, groups: int, pinned: tuple[str, ...]) -> Call:
    kernel: Any = triton.jit(one_head, do_not_specialize=list(pinned))
    of_group = heads // groups

    def call(
        o: torch.Tensor, positions: torch.Tensor, cache: torch.Tensor, out: qm.QuantizedTensor
    ) -> None:
        t, rows = o.shape[0], -(-o.shape[0] // 4) * 4
        n, columns = out.n, out.scales.shape[2]
        kernel[(rows, heads)](
            o, positions, cache, out.data, out.scales, t, of_group, heads * DIM, DIM,
            t * n, n, columns * rows, 1, rows, 1e-10,
            D=DIM, ROPE_DIM=ROPE, WIDTH=GROUP, num_warps=1, num_stages=1,
        )  # fmt: skip

    return call


def own_call(config: qm.InverseRopeQuantizeConfig, pinned: tuple[str, ...] | None) -> Call:
    """quantmux's kernel; with ``pinned`` its function is decorated anew with those."""
    device = profile("h200")
    if pinned is None:
        run = tokens.kernel.bind(config, device)
        return lambda o, positions, cache, out: run(o, positions, cache, out=out)
    again: Any = triton.jit(inverse_rope_kernel.fn, do_not_specialize=list(pinned))
    plan = tokens.TokensPlan(config, device.arch)
    own: Any = plan.aligned

    def launch(grid: tuple[int, ...], *args: Any) -> None:
        again[grid](*args, **own.constexprs, **own.options)

    plan.aligned = launch  # type: ignore[assignment]
    return plan.run


def call_of(way: str, config: qm.InverseRopeQuantizeConfig) -> Call:
    if way in ("before", "seed"):
        pinned = ("num_tokens",) if way == "seed" else ()
        return one_head_call(config.heads, config.groups, pinned)
    return own_call(config, {"own-before": (), "own-count": ("t",), "ours": None}[way])


def counted() -> list[str]:
    """Collect Triton's compilations from now on."""
    found: list[str] = []
    triton.knobs.runtime.jit_post_compile_hook = lambda *_, **facts: found.append(str(facts))
    return found


def steady_us(call: Call, sets: list[tuple[Any, ...]]) -> float:
    """Time one call, in µs, over sets of buffers in a graph."""
    repeat = -(-CALLS // len(sets))
    torch.cuda.synchronize()  # another stream does not wait for the one that filled the buffers
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call(*sets[0])
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(repeat):
                for given in sets:
                    call(*given)
    times = []
    for _ in range(6):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / (repeat * len(sets)))
    return median(times[1:])


def measure(way: str, heads: int, groups: int) -> dict[str, Any]:
    """Run one way in this process, whose Triton cache is empty."""
    config = qm.InverseRopeQuantizeConfig(
        heads=heads, head_dim=DIM, rope_dim=ROPE, groups=groups, operand="fp8_group128_pow2"
    )
    call = call_of(way, config)
    cache = make_cos_sin_cache(8192, ROPE).cuda()
    torch.zeros(1, device="cuda").add_(1)
    variants = counted()
    first: dict[int, float] = {}
    steady: dict[int, float] = {}
    for t in TOKENS:
        o = torch.randn(t, heads, DIM, device="cuda").bfloat16()
        positions = torch.randint(0, 8192, (t,), device="cuda")
        out = empty_grouped(config, t, "cuda")
        took = []
        for _ in range(5):
            torch.cuda.synchronize()
            start = time.perf_counter()
            call(o, positions, cache, out)
            torch.cuda.synchronize()
            took.append(time.perf_counter() - start)
        first[t] = max(0.0, took[0] - took[-1])
    compiled = len(variants)
    for t in TOKENS:
        copies = max(2, min(CALLS, int(-(-PAST_THE_CACHE // (t * heads * DIM * 3.03125)))))
        sets = [
            (
                torch.randn(t, heads, DIM, device="cuda").bfloat16(),
                torch.randint(0, 8192, (t,), device="cuda"),
                cache,
                empty_grouped(config, t, "cuda"),
            )
            for _ in range(copies)
        ]
        steady[t] = steady_us(call, sets)
    return {"way": way, "variants": compiled, "stall_s": sum(first.values()), "first_s": first,
            "steady_us": steady}  # fmt: skip


def in_fresh_process(way: str, heads: int, groups: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as empty:
        result = Path(empty) / "result.json"
        command = [sys.executable, __file__, empty, "--way", way, "--heads", str(heads)]
        environment = {**os.environ, "TRITON_CACHE_DIR": f"{empty}/cache"}
        done = subprocess.run(
            [*command, "--groups", str(groups)],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            return {"way": way, "error": done.stderr.strip().splitlines()[-1:]}
        found: dict[str, Any] = json.loads(result.read_text())
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--way", choices=WAYS, help="measure this one in this process")
    parser.add_argument("--ways", nargs="*", default=WAYS)
    parser.add_argument("--heads", type=int, default=64)
    parser.add_argument("--groups", type=int, default=8)
    asked = parser.parse_args()
    if asked.way:
        found = measure(asked.way, asked.heads, asked.groups)
        (asked.out / "result.json").write_text(json.dumps(found))
        return
    rows = [in_fresh_process(way, asked.heads, asked.groups) for way in asked.ways]
    facts = {
        "device": torch.cuda.get_device_name(),
        "versions": {"torch": torch.__version__, "triton": triton.__version__},
        "heads": asked.heads, "groups": asked.groups, "tokens": TOKENS, "rows": rows,
    }  # fmt: skip
    (asked.out / "inverse_rope_variants.json").write_text(json.dumps(facts, indent=1))
    for row in rows:
        if "error" in row:
            print(f"{row['way']:>11} failed: {row['error']}")
            continue
        steady = " ".join(f"{us:.1f}" for us in row["steady_us"].values())
        print(f"{row['way']:>11} {row['variants']} variants, {row['stall_s']:.2f} s; µs {steady}")


if __name__ == "__main__":
    main()
