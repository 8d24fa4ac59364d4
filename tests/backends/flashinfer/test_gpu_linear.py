"""FlashInfer's FP8 linears on a Hopper GPU, through quantmux: what the library would get wrong."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
import torch

import quantmux as qm
from quantmux.config import LinearConfig
from quantmux.dispatch.reference_config import reference_config
from quantmux.errors import ForcedKernelError, InputError, QuantmuxError
from quantmux.ops.agreement import agreement
from quantmux.ops.linear.spec import make_inputs
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.spec import Call, Case
from quantmux.runtime.binding import bind
from quantmux.testing.checks.launches import launched

if TYPE_CHECKING:
    from quantmux.ops.quantized import LinearWeights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0),
        reason="needs a Hopper GPU",
    ),
    pytest.mark.skipif(find_spec("flashinfer") is None, reason="flashinfer is not installed"),
]

BMM, CUDNN = "flashinfer/linear_fp8_bmm_cublas", "flashinfer/linear_fp8_bmm_cudnn"
BLOCK, INSIDE = "flashinfer/linear_fp8_block_sm90", "flashinfer/linear_fp8_block_sm90_inside"
SCHEMES = {BMM: "fp8_tensor", CUDNN: "fp8_tensor", BLOCK: "fp8_block128", INSIDE: "fp8_block128"}
LAUNCHES = {BMM: 1, CUDNN: 1, BLOCK: 1, INSIDE: 2}
"""Of the linear alone; ``INSIDE`` has its quantizer and its GEMM, no fill and no scale kernel."""

N, K = 576, 1280
GUARD = 4096


@pytest.fixture(params=SCHEMES, ids=lambda force: force.partition("linear_fp8_")[2])
def force(request: pytest.FixtureRequest) -> str:
    kernel: str = request.param
    if kernel == CUDNN and find_spec("cudnn") is None:
        pytest.skip("nvidia-cudnn-frontend is not installed")
    return kernel


def asked(force: str, n: int = N, k: int = K, **more: Any) -> LinearConfig:
    return LinearConfig(in_features=k, out_features=n, scheme=SCHEMES[force], **more)


def bound(
    force: str, m: int, n: int = N, k: int = K, seed: int = 3
) -> tuple[Any, torch.Tensor, LinearWeights, LinearConfig]:
    """Give a bound linear of one kernel, its plain x, and what they mean."""
    config = asked(force, n, k)
    x, weights = make_inputs(Case(config, m), "cuda", seed=seed).args
    selection = qm.select(config, torch.device("cuda:0"), force=force)
    call = bind(selection, weights, wait=True)
    call.warmup([m])
    assert call.pipeline_for(m).main.id == force, call.events
    return call, x, weights, config


def agrees(call: Any, x: torch.Tensor, weights: LinearWeights, y: torch.Tensor) -> None:
    pipeline = call.pipeline_for(x.shape[0])
    config = reference_config(call.selection.config, pipeline)
    tolerance = pipeline.main.capability.rel_tolerance
    found = agreement(config, Call((x, weights)), y, rel_tolerance=tolerance)
    assert found.ok, found.reason


@pytest.mark.parametrize("m", [1, 8, 16, 24, 31, 32, 33, 64, 100, 257])
def test_every_element_of_a_given_output_is_written_and_nothing_beside_it(
    force: str, m: int
) -> None:
    call, x, weights, _ = bound(force, m)
    room = torch.full((m * N + 2 * GUARD,), torch.nan, dtype=torch.bfloat16, device="cuda")
    y = room[GUARD : GUARD + m * N].view(m, N)
    given = call(x, out=y)
    torch.cuda.synchronize()
    assert given.data_ptr() == y.data_ptr()
    assert not y.isnan().any()
    assert room[:GUARD].isnan().all()
    assert room[GUARD + m * N :].isnan().all()
    agrees(call, x, weights, y)


def test_no_rows_launch_nothing(force: str) -> None:
    call, x, _, _ = bound(force, 16)
    reads = call.input_layout(16)
    # of the linear alone: a producer may have the scale of an empty tensor to write
    none = x[:0] if reads is None else quantize(x[:0], reads)
    assert call(none).shape == (0, N)
    assert launched(lambda: call(none), 1) == []


def test_a_linear_launches_what_it_declares_behind_its_producer(force: str) -> None:
    for m in (16, 64):
        call, x, _, _ = bound(force, m)
        names = launched(lambda call=call, x=x: call(x), 1)
        producers = len(call.pipeline_for(m).steps) - 1
        spec = call.pipeline_for(m).main
        assert spec.capability.launches == LAUNCHES[force]
        assert producers == (0 if force == INSIDE else 1)
        assert len(names) >= LAUNCHES[force] + producers
        if SCHEMES[force] == "fp8_block128":
            assert len(names) == LAUNCHES[force] + producers, names
            assert not [name for name in names if "fill" in name.lower()]


def test_a_replayed_graph_gives_the_bits_of_a_call(force: str) -> None:
    call, x, _, _ = bound(force, 16)
    want = call(x).clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = call(x)
    y.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(y, want)


def test_a_graph_is_captured_right_after_warmup_without_a_call_before(force: str) -> None:
    # DeepGEMM calls nvcc at the first call of a shape: warmup has made that call
    call, x, weights, _ = bound(force, 24, n=640, k=1408)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = call(x)
    graph.replay()
    torch.cuda.synchronize()
    agrees(call, x, weights, y)
    assert torch.equal(y, call(x))


def test_threads_on_streams_of_their_own_get_the_bits_of_one(force: str) -> None:
    # without a lock, 964 of 1200 such block-scaled calls of the library raised, and a context was
    # lost (H200, 2026-11-21); the shared workspace of bmm_fp8 is ordered across streams
    made = [bound(force, m, seed=m) for m in (8, 16, 48, 64)]
    wants = [call(x).clone() for call, x, _, _ in made]
    torch.cuda.synchronize()
    wrong: list[str] = []

    def work(first: int) -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                for turn in range(60):
                    at = (first + turn) % len(made)
                    call, x, _, _ = made[at]
                    if not torch.equal(call(x), wants[at]):
                        wrong.append(f"M={x.shape[0]} differs in turn {turn}")
        except Exception as error:  # noqa: BLE001 - a thread's exception would be lost
            wrong.append(repr(error))

    threads = [Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.cuda.synchronize()
    assert not wrong, wrong[:3]


def test_calls_in_turn_on_two_streams_get_the_bits_of_one(force: str) -> None:
    # a long K and few tiles: the product may be split and summed up in the shared workspace
    call, x, _, _ = bound(force, 16, n=512, k=16384)
    want = call(x).clone()
    streams = [torch.cuda.Stream() for _ in range(2)]
    torch.cuda.synchronize()
    found = []
    for _ in range(40):
        for stream in streams:
            with torch.cuda.stream(stream):
                found.append(call(x))
    torch.cuda.synchronize()
    assert all(torch.equal(y, want) for y in found)


def test_an_output_whose_rows_are_apart_is_refused_and_left_alone(force: str) -> None:
    # bmm_fp8 and the block-scaled GEMM take no notice of strides: they would write beside it
    call, x, _, _ = bound(force, 16)
    wide = torch.full((16, N + 64), 7.0, dtype=torch.bfloat16, device="cuda")
    with pytest.raises(InputError):
        call(x, out=wide[:, :N])
    torch.cuda.synchronize()
    assert (wide == 7.0).all()


@pytest.mark.parametrize("force", [BLOCK, INSIDE])
def test_block_scaled_linears_refuse_every_output_but_bf16(force: str) -> None:
    # the library accepts fp16 and writes the bits of bf16 into it
    with pytest.raises(ForcedKernelError) as refused:
        qm.select(asked(force, out_dtype="fp16"), torch.device("cuda:0"), m=16, force=force)
    assert "fp16" in str(refused.value)
    call, x, _, _ = bound(force, 16)
    y = torch.full((16, N), 7.0, dtype=torch.float16, device="cuda")
    with pytest.raises(InputError):
        call(x, out=y)
    torch.cuda.synchronize()
    assert (y == 7.0).all()


@pytest.mark.parametrize("force", [BLOCK, INSIDE])
def test_weight_scales_of_one_row_each_never_reach_the_library(force: str) -> None:
    # (N, K/128) passes the library's own checks, and is then read as if it were (N/128, K/128)
    config = asked(force)
    _, weights = make_inputs(Case(config, 16), "cuda", seed=3).args
    by_row = weights.scales.repeat_interleave(128, 0)[:N].contiguous()
    selection = qm.select(config, torch.device("cuda:0"), m=16, force=force)
    with pytest.raises(QuantmuxError):
        bind(selection, replace(weights, scales=by_row), wait=True)


@pytest.mark.parametrize(("n", "k"), [(1000, 1368), (1000, 1000), (40, 72)])
def test_odd_widths_of_tensor_scaled_linears_agree(n: int, k: int) -> None:
    for m in (1, 16, 100):
        call, x, weights, _ = bound(BMM, m, n, k)
        agrees(call, x, weights, call(x))
