"""Check the torch backend's native linears on the GPU at hand: numbers, launches, capture.

    PYTHONPATH=core:backends/torch python benchmarks/device/torch_backend_check.py [--seconds 220]

Every kernel that is native on this GPU runs small and real shapes over many M, with biases,
accumulations and dtypes, against the fp64 definition. Failures are collected, never raised. The
last lines are one table; all results go to ``$OUT/torch_backend_check.json`` (default: here).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from quantmux.capability.arch import Arch
from quantmux.capability.device import DeviceProfile
from quantmux.capability.profiles import CPU
from quantmux.config import LinearConfig, QuantizeConfig
from quantmux.config.layouts import round_up
from quantmux.config.settings import Settings
from quantmux.dispatch import Inventory
from quantmux.dispatch.eligible import judge
from quantmux.dispatch.join import input_of
from quantmux.ops.linear.reference import linear_exact
from quantmux.ops.linear.tolerance import compare, linear_magnitude
from quantmux.ops.linear.weights import quantize_weight
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.quantized import DTYPES, LinearWeights
from quantmux.ops.spec import op_spec
from quantmux_torch.plugin import quantmux_kernels, quantmux_probe

MS = (1, 2, 3, 7, 16, 17, 33, 64, 128, 129, 1024)
SMALL = ((16, 16), (33, 200), (48, 1368), (256, 512), (576, 384))
REAL = ((2112, 7168), (576, 7168), (4096, 4096), (7168, 2048), (4096, 14336))
SCHEMES = {
    "linear_scaled_mm_tensor": ("fp8_tensor", "fp8_tensor_static"),
    "linear_scaled_mm_row": ("fp8_channel_token", "fp8_tensor_token"),
    "linear_scaled_mm_row_bias": ("fp8_channel_token", "fp8_tensor_token"),
    "linear_scaled_mm_row_cutlass": ("fp8_channel_token", "fp8_tensor_token"),
    "linear_scaled_mm_block": ("fp8_block128", "fp8_block128_pow2"),
    "linear_int_mm": ("int8_channel_token",),
    "linear_int_mm_small_m": ("int8_channel_token",),
    "linear_scaled_mm_cpu": ("fp8_tensor_static", "fp8_channel_token"),
    "linear_int_mm_cpu": ("int8_channel_token",),
    "linear_emulated": ("fp8_block128", "nvfp4", "fp8_w8a16", "nvfp4_w4a16"),
}
BIASES = (None, "bf16", "fp32")
CASE_FIELDS = ("scheme", "n", "k", "m", "bias", "in_dtype", "out_dtype", "magnitude")


@dataclass
class Tally:
    """What was found about one kernel."""

    kernel: str
    cases: int = 0
    failed: int = 0
    refused: int = 0
    worst: float = 0.0
    rel_error: float = 0.0
    declared_launches: int | None = None
    launches: dict[str, float] = field(default_factory=dict)
    kernels_seen: dict[str, int] = field(default_factory=dict)
    graph: str = "-"
    host_us: float | None = None
    gpu_us: float | None = None


class Check:
    """One run over everything, within a number of seconds."""

    def __init__(self, seconds: float, *, on_host: bool) -> None:
        self.on_host = on_host
        if on_host:
            self.device, self.profile = torch.device("cpu"), CPU
        else:
            self.device = torch.device("cuda", torch.cuda.current_device())
            major, minor = torch.cuda.get_device_capability(self.device)
            self.profile = DeviceProfile(
                name="here",
                title=torch.cuda.get_device_name(self.device),
                arch=Arch.parse(f"{major}.{minor}"),
                is_present=True,
                index=self.device.index,
            )
        self.deadline = time.monotonic() + seconds
        self.failures: list[dict[str, Any]] = []
        self.skipped: Counter[str] = Counter()
        self.specs = {spec.id.partition("/")[2]: spec for spec in quantmux_kernels()}

    def is_late(self, what: str) -> bool:
        if time.monotonic() < self.deadline:
            return False
        self.skipped[what] += 1
        return True

    def fail(self, tally: Tally, what: str, detail: str, **case: Any) -> None:
        tally.failed += 1
        self.failures.append({"kernel": tally.kernel, "what": what, "detail": detail[:500], **case})

    def linear(self, name: str) -> Tally:
        spec = self.specs[name]
        tally = Tally(name, declared_launches=spec.capability.launches)
        for scheme in SCHEMES[name]:
            for n, k in SMALL:
                self.shape(tally, scheme, n, k, BIASES, ("bf16", "fp16", "fp32"), ("bf16",))
            self.shape(tally, scheme, 256, 512, (None,), ("bf16",), ("fp16", "fp32"))
            for magnitude in (1e-4, 1e4):
                self.shape(
                    tally, scheme, 256, 512, (None,), ("bf16",), ("bf16",), magnitude=magnitude
                )
            for n, k in () if self.on_host else REAL:
                self.shape(tally, scheme, n, k, (None, "bf16"), ("bf16",), ("bf16",))
        if self.on_host:
            return tally
        self.guarded(tally, "launches", self.count_launches)
        self.guarded(tally, "graph", self.capture)
        self.guarded(tally, "time", self.measure)
        return tally

    def guarded(self, tally: Tally, what: str, do: Any) -> None:
        try:
            do(tally)
        except Exception as error:  # noqa: BLE001  (the next kernel must still be checked)
            self.fail(tally, what, f"{type(error).__name__}: {error}")

    def shape(
        self,
        tally: Tally,
        scheme: str,
        n: int,
        k: int,
        biases: tuple[str | None, ...],
        out_dtypes: tuple[str, ...],
        in_dtypes: tuple[str, ...],
        magnitude: float = 1.0,
    ) -> None:
        generator = torch.Generator(self.device).manual_seed(n * 31 + k)
        weight = torch.randn(n, k, generator=generator, device=self.device) * k**-0.5
        weight *= torch.exp2(torch.arange(n, device=self.device) % 3).unsqueeze(1)
        for bias in biases:
            for out_dtype in out_dtypes:
                for accumulation in ("", "+exact"):
                    for in_dtype in in_dtypes:
                        case = (scheme + accumulation, n, k, bias, in_dtype, out_dtype, magnitude)
                        if not self.is_late(tally.kernel):
                            self.config(tally, weight, *case)

    def config(
        self,
        tally: Tally,
        weight: torch.Tensor,
        scheme: str,
        n: int,
        k: int,
        bias: str | None,
        in_dtype: str,
        out_dtype: str,
        magnitude: float,
    ) -> None:
        case: dict[str, Any] = {
            "scheme": scheme,
            "n": n,
            "k": k,
            "bias": bias,
            "in_dtype": in_dtype,
            "out_dtype": out_dtype,
            "magnitude": magnitude,
        }
        try:
            config = LinearConfig(
                in_features=k,
                out_features=n,
                scheme=scheme,
                in_dtype=in_dtype,
                out_dtype=out_dtype,
                bias=bias is not None,
            )
            spec = self.specs[tally.kernel]
            verdict = judge(spec, config, self.profile, Settings(), Inventory((spec,)))
            if not verdict.is_eligible:
                tally.refused += 1
                return
            weights = self.weights(weight, config, bias, magnitude)
            kernel = self.load(tally.kernel)
            prepared = kernel.prepare(weights, config, self.profile)
            run = kernel.bind(config, prepared, self.profile)
        except Exception as error:  # noqa: BLE001
            self.fail(tally, "bind", f"{type(error).__name__}: {error}", **case)
            return
        for m in MS:
            if m < spec.capability.m_min or m > (spec.capability.m_max or m):
                continue
            tally.cases += 1
            try:
                found = self.call(tally, run, weights, config, m, magnitude)
            except Exception as error:  # noqa: BLE001
                found = [("raised", f"{type(error).__name__}: {error}")]
            for what, detail in found:
                self.fail(tally, what, detail, m=m, **case)

    def load(self, name: str) -> Any:
        module, _, attribute = self.specs[name].load.partition(":")
        return getattr(importlib.import_module(module), attribute)

    def weights(
        self, weight: torch.Tensor, config: LinearConfig, bias: str | None, magnitude: float
    ) -> LinearWeights:
        made = None
        if bias is not None:
            generator = torch.Generator(self.device).manual_seed(7)
            made = torch.randn(config.n, generator=generator, device=self.device) * magnitude
            # "bf16" means: a dtype that the output holds exactly
            made = made.to(DTYPES["fp32" if bias == "fp32" else config.out_dtype])
        scale = torch.full((1,), 4.0 * magnitude, device=self.device)
        return quantize_weight(
            weight,
            config.scheme,
            bias=made,
            input_scale=scale / 448.0,
            input_global_scale=scale / 2688.0 if config.scheme.weight.is_nvfp4 else None,
        )

    def x_of(
        self, name: str, weights: LinearWeights, config: LinearConfig, m: int, magnitude: float
    ) -> Any:
        generator = torch.Generator(self.device).manual_seed(m)
        x = torch.randn(m, config.k, generator=generator, device=self.device) * magnitude
        x = x.to(DTYPES[config.in_dtype])
        spec, activation = self.specs[name], config.scheme.activation
        verdict = judge(spec, config, self.profile, Settings(), Inventory((spec,)))
        if activation is None or verdict.offer is None or verdict.offer.activation is None:
            return x
        offer = verdict.offer.activation
        asked = input_of(spec.capability, offer, activation, config.k, config.in_dtype)[0]
        return quantize(
            x,
            asked,
            scale=None if activation.dynamic else weights.input_scale,
            global_scale=(
                weights.input_global_scale if activation.global_scale == "static" else None
            ),
        )

    def call(
        self,
        tally: Tally,
        run: Any,
        weights: LinearWeights,
        config: LinearConfig,
        m: int,
        magnitude: float,
    ) -> list[tuple[str, str]]:
        given = self.x_of(tally.kernel, weights, config, m, magnitude)
        y = run(given)
        exact = linear_exact(given, weights, config)
        size = linear_magnitude(given, weights, config)
        result = compare(y, exact, config=config, magnitude=size)
        tally.worst = max(tally.worst, result.worst)
        tally.rel_error = max(tally.rel_error, result.rel_error)
        found: list[tuple[str, str]] = []
        if not result.ok:
            text = f"rel {result.rel_error:.3g} > {result.tolerance:.3g}; {result.first_bad}"
            found.append(("numbers", text))
        stride = round_up(config.n, self.specs[tally.kernel].capability.output_row_multiple)
        if m > 1 and y.stride() != (stride, 1):
            found.append(("stride", f"needs {(stride, 1)}, found {y.stride()}"))
        storage = torch.full((m, stride), torch.nan, dtype=y.dtype, device=self.device)
        run(given, out=storage[:, : config.n])
        if not torch.equal(storage[:, : config.n], y):
            wrong = storage[:, : config.n].ne(y)
            found.append(("out", f"{int(wrong.sum())} elements differ from the first call"))
        return found

    def plain(self, name: str, m: int) -> tuple[LinearConfig, Any, Any]:
        config = LinearConfig(in_features=4096, out_features=4096, scheme=SCHEMES[name][0])
        weight = torch.randn(4096, 4096, device=self.device) / 64
        weights = self.weights(weight, config, None, 1.0)
        kernel = self.load(name)
        run = kernel.bind(config, kernel.prepare(weights, config, self.profile), self.profile)
        return config, run, self.x_of(name, weights, config, m, 1.0)

    def rows(self, name: str, ms: tuple[int, ...]) -> list[int]:
        capability = self.specs[name].capability
        return [m for m in ms if capability.m_min <= m <= (capability.m_max or m)]

    def count_launches(self, tally: Tally) -> None:
        from torch.profiler import ProfilerActivity, profile

        calls = 4
        for m in self.rows(tally.kernel, (1, 16, 64, 128, 1024)):
            _, run, given = self.plain(tally.kernel, m)
            run(given)
            torch.cuda.synchronize()
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
                for _ in range(calls):
                    run(given)
                torch.cuda.synchronize()
            names = [e.name for e in recorded.events() if str(e.device_type).endswith("CUDA")]
            tally.launches[str(m)] = len(names) / calls
            for name in names:
                tally.kernels_seen[name[:90]] = tally.kernels_seen.get(name[:90], 0) + 1
            declared = tally.declared_launches
            if declared is not None and len(names) != declared * calls:
                text = f"declared {declared}, seen {len(names) / calls}: {sorted(set(names))}"
                self.fail(tally, "launches", text, m=m)

    def capture(self, tally: Tally) -> None:
        if "cuda_graph" not in self.specs[tally.kernel].capability.tags:
            tally.graph = "not declared"
            return
        tally.graph = "failed"
        for m in self.rows(tally.kernel, (1, 16, 1024)):
            config, run, given = self.plain(tally.kernel, m)
            self.load(tally.kernel).warmup(config, [m])
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                captured = run(given)
            captured.fill_(float("nan"))
            graph.replay()
            torch.cuda.synchronize()
            if not torch.equal(captured, run(given)):
                self.fail(tally, "graph", "a replay differs from a call", m=m)
                return
        tally.graph = "ok"

    def measure(self, tally: Tally) -> None:
        m = self.rows(tally.kernel, (16, 64))[0]
        _, run, given = self.plain(tally.kernel, m)
        for _ in range(20):
            run(given)
        torch.cuda.synchronize()
        calls = 300
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun = time.perf_counter()
        start.record()
        for _ in range(calls):
            run(given)
        stop.record()
        tally.host_us = (time.perf_counter() - begun) / calls * 1e6
        torch.cuda.synchronize()
        tally.gpu_us = start.elapsed_time(stop) / calls * 1e3

    def producers(self) -> Tally:
        """quantize on the GPU gives the bits that it gives on the host."""
        tally = Tally("quantize")
        spec, kernel = op_spec("quantize"), self.load("quantize")
        for seed, case in enumerate(spec.cases()):
            if self.is_late("quantize"):
                continue
            if not case.is_small:
                continue
            tally.cases += 1
            try:
                call, here = (spec.inputs(case, d, seed) for d in ("cpu", self.device))
                want = spec.reference(*call.args, case.config, **call.kwargs)
                got = kernel.bind(case.config, self.profile)(*here.args, **here.kwargs)
                same = all(
                    torch.equal(_bits(a).cpu(), _bits(b))
                    for a, b in zip(got.tensors(), want.tensors(), strict=True)
                )
            except Exception as error:  # noqa: BLE001
                self.fail(tally, "raised", f"{type(error).__name__}: {error}", case=str(case))
                continue
            if not same:
                self.fail(tally, "bits", "differ from the host's", case=str(case))
        return tally

    def padding(self) -> Tally:
        """Numbers behind K in the padding of x must meet zeros of the weight."""
        tally = Tally("padding of K")
        for name in SCHEMES:
            if name == "linear_emulated" or not self.is_native(name):
                continue
            config = LinearConfig(in_features=200, out_features=33, scheme=SCHEMES[name][0])
            m = self.rows(name, (5, 40))[0]
            tally.cases += 1
            try:
                weight = torch.randn(33, 200, device=self.device)
                weights = self.weights(weight, config, None, 1.0)
                kernel = self.load(name)
                prepared = kernel.prepare(weights, config, self.profile)
                run = kernel.bind(config, prepared, self.profile)
                given = self.x_of(name, weights, config, m, 1.0)
                clean = run(given).clone()
                given.data.view(torch.uint8)[:, 200:] = 0x3F
                if not torch.equal(run(given), clean):
                    self.fail(tally, "padding", name)
                empty = QuantizeConfig(operand=given.operand, n=200, layout=given.layout)
                x = torch.empty(0, 200, dtype=torch.bfloat16, device=self.device)
                scale = weights.input_scale if not given.operand.dynamic else None
                if tuple(run(quantize(x, empty, scale=scale)).shape) != (0, 33):
                    self.fail(tally, "no rows", name)
            except Exception as error:  # noqa: BLE001
                self.fail(tally, "raised", f"{name}: {type(error).__name__}: {error}")
        return tally

    def is_native(self, name: str) -> bool:
        arch = self.specs[name].capability.arch
        return any(self.profile.arch in one for one in arch)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    raw = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
    return raw[tensor.storage_offset() * tensor.element_size() :]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=220.0)
    parser.add_argument("--host", action="store_true", help="try the script itself, on the CPU")
    parser.add_argument("--only", nargs="+", default=list(SCHEMES), choices=list(SCHEMES))
    asked = parser.parse_args()
    check = Check(asked.seconds, on_host=asked.host)
    begun = time.monotonic()
    tallies = [check.padding(), check.producers()]
    tallies += [check.linear(name) for name in asked.only if check.is_native(name)]
    result = {
        "device": check.profile.title,
        "torch": torch.__version__,
        "probe": asdict(quantmux_probe(check.profile)),
        "seconds": time.monotonic() - begun,
        "tallies": [asdict(t) for t in tallies],
        "failures": check.failures,
        "skipped_for_time": dict(check.skipped),
    }
    where = Path(os.environ.get("OUT", ".")) / "torch_backend_check.json"
    where.write_text(json.dumps(result, indent=1, default=str))
    _report(result, tallies, check)


def _report(result: dict[str, Any], tallies: list[Tally], check: Check) -> None:
    kinds = Counter((f["kernel"], f["what"]) for f in check.failures)
    shown: Counter[tuple[str, str]] = Counter()
    for failure in check.failures:
        key = (failure["kernel"], failure["what"])
        shown[key] += 1
        if shown[key] <= 3:
            case = {k: failure[k] for k in CASE_FIELDS if k in failure}
            print("FAILED", *key, case, failure.get("case", ""), failure["detail"])
    for key, count in kinds.items():
        print("failures", *key, count)
    for name, count in check.skipped.items():
        print("skipped for time", name, count)
    print(f"{result['device']}, torch {result['torch']}, {result['seconds']:.0f} s")
    print(
        f"{'kernel':<30}{'cases':>6}{'failed':>7}{'refused':>8}{'worst':>7}{'rel':>9}"
        f"{'launches (declared)':>24}  graph        host us  gpu us"
    )
    for t in tallies:
        seen = "/".join(f"{v:g}" for v in t.launches.values()) or "-"
        host = "-" if t.host_us is None else f"{t.host_us:.1f}"
        gpu = "-" if t.gpu_us is None else f"{t.gpu_us:.1f}"
        print(
            f"{t.kernel:<30}{t.cases:>6}{t.failed:>7}{t.refused:>8}{t.worst:>7.2f}"
            f"{t.rel_error:>9.1e}{f'{seen} ({t.declared_launches})':>24}  {t.graph:<12}"
            f"{host:>8}{gpu:>8}"
        )
    print("OK" if not check.failures and not check.skipped else "NOT OK")


if __name__ == "__main__":
    main()
