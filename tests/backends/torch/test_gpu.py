"""The kernels on a real GPU: numbers, capture and launches as declared."""

from functools import partial

import pytest
import torch

from quantmux.capability.arch import Arch
from quantmux.capability.device import DeviceProfile
from quantmux.config import LinearConfig
from quantmux.config.layouts import round_up
from quantmux.ops.linear.reference import linear_exact
from quantmux.ops.linear.tolerance import compare, linear_magnitude
from quantmux.ops.linear.weights import quantize_weight
from quantmux.ops.spec import op_spec
from quantmux.testing.checks.launches import launched

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

NATIVE = {
    "linear_scaled_mm_tensor": "fp8_tensor",
    "linear_scaled_mm_row": "fp8_channel_token",
    "linear_scaled_mm_row_bias": "fp8_channel_token",
    "linear_scaled_mm_row_cutlass": "fp8_channel_token",
    "linear_scaled_mm_block": "fp8_block128",
    "linear_int_mm": "int8_channel_token",
    "linear_int_mm_small_m": "int8_channel_token",
}


@pytest.fixture(scope="module")
def gpu() -> DeviceProfile:
    major, minor = torch.cuda.get_device_capability(0)
    arch = Arch.parse(f"{major}.{minor}")
    return DeviceProfile(name="here", title="GPU 0", arch=arch, is_present=True, index=0)


def on_this_gpu(one, config, gpu):
    verdict = one.verdict(config, gpu)
    if not verdict.is_eligible:
        pytest.skip("; ".join(map(str, verdict.rejections)))
    return one


def plain(one, gpu, m: int):
    config = LinearConfig(
        in_features=4096, out_features=4096, scheme=NATIVE[one.spec.id.partition("/")[2]]
    )
    on_this_gpu(one, config, gpu)
    weights = quantize_weight(torch.randn(4096, 4096, device="cuda") / 64, config.scheme)
    run = one.loaded.bind(config, one.loaded.prepare(weights, config, gpu), gpu)
    x = torch.randn(m, 4096, device="cuda").to(torch.bfloat16)
    return config, run, one.x_of(x, weights, config, gpu)


def row_counts(one, *ms: int) -> list[int]:
    capability = one.spec.capability
    return [m for m in ms if capability.m_min <= m <= (capability.m_max or m)]


@pytest.mark.parametrize("name", [*NATIVE, "linear_emulated"])
def test_every_case_it_serves_is_within_the_tolerance_of_the_op(name, kernel, gpu):
    spec, one = op_spec("linear"), kernel(name)
    if not any(gpu.arch in arch for arch in one.spec.capability.arch):
        pytest.skip(f"{one.spec.id} does not run on {gpu.arch}")
    served, wrong = 0, []
    # real layers' shapes run in benchmarks/device/torch_backend_check.py: making their inputs on
    # the host, the same for every device, takes minutes
    for seed, case in enumerate(c for c in spec.cases() if c.is_small):
        config = case.config
        if not one.verdict(config, gpu).is_eligible:
            continue
        if case.m and not row_counts(one, case.m):
            continue
        served += 1
        x, weights = spec.inputs(case, "cuda", seed).args
        given = one.x_of(x, weights, config, gpu)
        run = one.loaded.bind(config, one.loaded.prepare(weights, config, gpu), gpu)
        y = run(given)
        assert y.shape == (case.m, config.n), case
        result = compare(
            y,
            linear_exact(given, weights, config),
            config=config,
            magnitude=linear_magnitude(given, weights, config),
        )
        if not result.ok:
            wrong.append(f"{case}: {result}")
        stride = round_up(config.n, one.spec.capability.output_row_multiple)
        storage = torch.full((case.m, stride), torch.nan, dtype=y.dtype, device="cuda")
        run(given, out=storage[:, : config.n])
        if not torch.equal(storage[:, : config.n].nan_to_num(7.0), y.nan_to_num(7.0)):
            wrong.append(f"out= of {case}")
    assert served
    assert not wrong, wrong[:10]


@pytest.mark.parametrize("name", NATIVE)
def test_a_call_after_warmup_can_be_captured_and_replayed(name, kernel, gpu):
    one = kernel(name)
    for m in row_counts(one, 1, 16, 17, 128):
        config, run, given = plain(one, gpu, m)
        one.loaded.warmup(config, [m])
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = run(given)
        y.fill_(torch.nan)
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(y, run(given))


@pytest.mark.parametrize("name", NATIVE)
def test_the_profiler_counts_the_launches_that_are_declared(name, kernel, gpu):
    one = kernel(name)
    declared = one.spec.capability.launches
    if declared is None:
        pytest.skip("a composite declares none")
    for m in row_counts(one, 16, 128, 1024):
        _, run, given = plain(one, gpu, m)
        seen = launched(partial(run, given), 1)
        assert len(seen) == declared, (m, seen)


@pytest.mark.parametrize("op", ["quantize", "relayout"])
def test_producers_give_the_bits_of_the_host(op, kernel, gpu, bits):
    spec, wrong = op_spec(op), []
    for seed, case in enumerate(c for c in spec.cases() if c.is_small):
        call, here = (spec.inputs(case, device, seed) for device in ("cpu", "cuda"))
        want = spec.reference(*call.args, case.config, **call.kwargs)
        got = kernel(op).loaded.bind(case.config, gpu)(*here.args, **here.kwargs)
        pairs = zip(got.tensors(), want.tensors(), strict=True)
        if not all(torch.equal(bits(a).cpu(), bits(b)) for a, b in pairs):
            wrong.append(str(case))
    assert not wrong, wrong[:10]


def test_the_emulation_keeps_fp32_when_tf32_is_allowed(kernel, gpu):
    config = LinearConfig(
        in_features=2048,
        out_features=64,
        scheme="fp8_w8a16",
        in_dtype="fp32",
        out_dtype="fp32",
    )
    one = kernel("linear_emulated")
    weights = quantize_weight(torch.randn(64, 2048, device="cuda"), config.scheme)
    x = torch.randn(64, 2048, device="cuda")
    run = one.loaded.bind(config, one.loaded.prepare(weights, config, gpu), gpu)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        y = run(x)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    compare(
        y,
        linear_exact(x, weights, config),
        config=config,
        magnitude=linear_magnitude(x, weights, config),
    ).require("linear_emulated")
