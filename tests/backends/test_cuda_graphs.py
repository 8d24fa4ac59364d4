"""CUDA graphs on a GPU: what is warm is captured and replays to the bit, the rest is refused."""

from __future__ import annotations

import gc
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import torch

import quantmux as qm
from quantmux.errors import BuildError, LaunchError, SelectionError
from quantmux.testing import launches
from quantmux.testing.checks.variants import compilations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from quantmux.config import QuantizeConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    # a refusal leaves a capture in which nothing was launched, and torch says so
    pytest.mark.filterwarnings("ignore:The CUDA Graph is empty:UserWarning"),
]

GIVEN = os.environ.get("QUANTMUX_CACHE_DIR")
NAME = "model.layers.3.down_proj"
MS = (1, 16, 100, 1024)
N, K = 2048, 1368
"""A width that every FP8 kernel has to pad."""

LAYERS = [
    ("", "fp8_channel_token"),
    ("triton", "fp8_block128"),
    ("triton", "fp8_channel_token"),
    ("triton", "nvfp4_w4a16"),
    ("torch", "fp8_channel_token"),
    ("torch", "fp8_tensor"),
    ("flashinfer", "fp8_tensor"),
    ("flashinfer", "fp8_block128"),
    ("cutlass", "fp8_channel_token"),
    ("cutlass", "fp8_block128"),
]
"""Whose linear, "" for the one that selection takes, and its scheme."""

each_layer = pytest.mark.parametrize(("backend", "scheme"), LAYERS)


@pytest.fixture(autouse=True)
def _own_user_folder(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keep the folder that the program was started with, where libraries lie that took a minute."""
    if GIVEN is None:
        monkeypatch.setenv("QUANTMUX_CACHE_DIR", str(tmp_path_factory.mktemp("user")))
    else:
        monkeypatch.setenv("QUANTMUX_CACHE_DIR", GIVEN)


def linear(backend: str, scheme: str, n: int = N, k: int = K) -> qm.Linear:
    """Give a linear that nobody has bound, of kernels of one backend."""
    generator = torch.Generator("cuda").manual_seed(n * k)
    weight = torch.randn(n, k, generator=generator, device="cuda", dtype=torch.bfloat16) / k**0.5
    wanted: dict[str, Any] = {"allow_lossy": "allow"}
    if backend:
        wanted["force"] = backend
    try:
        return qm.Linear.from_float(weight, scheme, layer=NAME, policy=wanted)
    except SelectionError as error:
        pytest.skip(f"{backend} has no linear for it here: {error.headline}")


def ready(backend: str, scheme: str, ms: tuple[int, ...] = MS) -> qm.Linear:
    layer = linear(backend, scheme)
    try:
        layer.warmup(ms)
    except BuildError as error:
        pytest.skip(f"{backend} does not build here: {error.headline}")
    return layer


def rows(m: int, k: int = K, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(m + 7919 * seed)
    x = torch.randn(m, k, generator=generator, device="cuda")
    return (x * 10 ** torch.linspace(-2, 2, k, device="cuda")).to(torch.bfloat16)


def empty_graph() -> torch.cuda.CUDAGraph:
    # a graph that an earlier error still holds must not be collected, hence destroyed, in the
    # middle of a capture: CUDA forbids it, and the capture is lost (seen on an H200)
    gc.collect()
    return torch.cuda.CUDAGraph()


def capture(call: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    graph = empty_graph()
    with torch.cuda.graph(graph):
        result = call()
    return graph, result


def captured_or_refused(call: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any] | LaunchError:
    try:
        return capture(call)
    except LaunchError as error:
        if error.code != "not_warmed":
            raise
        return error


@contextmanager
def no_waiting() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@each_layer
def test_what_was_warmed_up_replays_to_the_bit_on_inputs_that_came_later(
    backend: str, scheme: str
) -> None:
    layer = ready(backend, scheme)
    for m in MS:
        x = rows(m)
        graph, y = capture(lambda x=x: layer(x))
        for seed in (1, 2):
            x.copy_(rows(m, seed=seed))
            y.fill_(torch.nan)
            graph.replay()
            torch.cuda.synchronize()
            assert torch.equal(y, layer(x)), (m, seed)


@each_layer
def test_a_thousand_replays_allocate_nothing(backend: str, scheme: str) -> None:
    layer = ready(backend, scheme, (16,))
    x = rows(16)
    graph, y = capture(lambda: layer(x))
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()
    want = y.clone()
    torch.cuda.synchronize()
    begun = torch.cuda.memory_allocated()
    for _ in range(1000):
        graph.replay()
    torch.cuda.synchronize()
    after = torch.cuda.memory_stats()
    assert torch.cuda.memory_allocated() == begun
    assert after["reserved_bytes.all.current"] == before["reserved_bytes.all.current"]
    assert after["allocation.all.allocated"] == before["allocation.all.allocated"] + 1  # want
    assert torch.equal(y, want)


@each_layer
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
def test_no_call_waits_for_the_gpu(backend: str, scheme: str) -> None:
    layer = ready(backend, scheme)
    for m in MS:
        x = rows(m)
        layer(x)
        with no_waiting():
            layer(x)


@each_layer
def test_a_layer_that_was_never_bound_is_refused_before_anything_is_done(
    backend: str, scheme: str
) -> None:
    layer = linear(backend, scheme)
    x = rows(16)
    graph = empty_graph()
    with compilations() as compiled, pytest.raises(LaunchError) as caught, torch.cuda.graph(graph):
        layer(x)
    assert caught.value.code == "not_warmed"
    assert not caught.value.context_poisoned
    text = str(caught.value)
    assert all(part in text for part in (NAME, "M = 16", "warmup([16])")), text
    assert layer.bound is None
    assert compiled == []


def test_after_a_refusal_the_process_warms_up_and_captures() -> None:
    layer = linear("triton", "fp8_channel_token")
    x = rows(16)
    graph = empty_graph()
    with pytest.raises(LaunchError, match="not warmed up"), torch.cuda.graph(graph):
        layer(x)
    layer.warmup([16])
    graph, y = capture(lambda: layer(x))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(y, layer(x))


def test_bound_is_not_warm() -> None:
    layer = linear("triton", "fp8_channel_token")
    layer.bind()
    x = rows(16)
    graph = empty_graph()
    with pytest.raises(LaunchError, match=r"M = 16") as caught, torch.cuda.graph(graph):
        layer(x)
    assert caught.value.code == "not_warmed"


@each_layer
def test_rows_that_were_not_warmed_up_are_refused_exactly_where_something_would_compile(
    backend: str, scheme: str
) -> None:
    layer = ready(backend, scheme, (16,))
    refused: dict[int, str] = {}
    made = 0
    for m in (1, 2, 3, 15, 17, 33, 64, 100, 128, 257, 1000, 1024, 4096):
        x = rows(m)
        with compilations() as compiled:
            found = captured_or_refused(lambda x=x: layer(x))
        assert compiled == [], (m, compiled)
        if isinstance(found, LaunchError):
            refused[m] = found.facts[0]
            continue
        graph, y = found
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(y, layer(x)), m
    for m in refused:
        with compilations() as compiled:
            layer.warmup([m])
        made += len(compiled)
        x = rows(m)
        graph, y = capture(lambda x=x: layer(x))
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(y, layer(x)), m
    if any(why.endswith("would compile") for why in refused.values()):
        assert made  # it was no lie; several M may need the one variant that the first of them made
    assert layer.bound is not None
    assert not layer.bound.events or {e.stage for e in layer.bound.events} == {"select"}


def test_a_producer_that_was_never_called_is_refused_by_its_op() -> None:
    config = qm.QuantizeConfig(operand="fp8_group128", n=1408, layout="col_major_aligned4")
    x = rows(16, 1408)
    graph = empty_graph()
    refusal = pytest.raises(LaunchError, match="quantize fp8_group128 n=1408")
    with refusal as caught, torch.cuda.graph(graph):
        qm.quantize(x, config)
    assert caught.value.code == "not_warmed"
    qm.quantize(x, config)
    graph, q = capture(lambda: qm.quantize(x, config))
    x.copy_(rows(16, 1408, seed=1))
    graph.replay()
    torch.cuda.synchronize()
    eager = qm.quantize(x, config)
    for ours, theirs in zip(q.tensors(), eager.tensors(), strict=True):
        assert torch.equal(ours.float(), theirs.float())


# --- launches ---------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [16, 1024])
@pytest.mark.parametrize("scheme", ["fp8_channel_token", "fp8_block128"])
def test_a_padded_fp8_linear_is_two_launches_eager_and_replayed(scheme: str, m: int) -> None:
    layer = ready("", scheme, (m,))
    x = rows(m)
    eager = launches(lambda: layer(x))
    assert eager.count == eager.kernels == 2, str(eager)
    assert eager.is_steady
    graph, _ = capture(lambda: layer(x))
    replayed = launches(graph.replay)
    assert replayed.names == eager.names, f"{eager}\n{replayed}"


def test_a_linear_that_quantizes_inside_launches_what_its_library_declares_and_none_of_ours() -> (
    None
):
    layer = linear("flashinfer/linear_fp8_block_sm90_inside", "fp8_block128", 2112, 7168)
    layer.warmup([16])
    bound = layer.bind()
    pipeline = bound.pipeline_for(16)
    assert len(pipeline.steps) == 1
    x = rows(16, 7168)
    seen = launches(lambda: layer(x))
    assert seen.count == seen.kernels == pipeline.main.capability.launches == 2, str(seen)
    ours = [n for n in seen.names if "fill" in n.lower() or n.startswith(("_quantize", "quantize"))]
    assert not ours, str(seen)


@pytest.mark.parametrize("m", [16, 1024])
@pytest.mark.parametrize("scheme", ["fp8_channel_token", "fp8_block128"])
@pytest.mark.parametrize("backend", ["triton", "cutlass"])
def test_silu_mul_and_the_down_projection_are_two_launches(
    backend: str, scheme: str, m: int
) -> None:
    n, k = 1024, 2048
    layer = linear(backend, scheme, n, k)
    layer.warmup([m])
    reads: QuantizeConfig | None = layer.input_layout(m)
    assert reads is not None
    config = qm.SiluMulQuantizeConfig(operand=reads.operand, n=k, layout=reads.layout)
    x = rows(m, 2 * k)

    def mlp() -> torch.Tensor:
        return layer(qm.silu_mul_quantize(x, config))

    seen = launches(mlp)
    assert seen.count == seen.kernels == 2, str(seen)
    gate, up = x.float().chunk(2, dim=-1)
    plain = layer((torch.nn.functional.silu(gate) * up).to(torch.bfloat16)).float()
    error = (mlp().float() - plain).norm() / plain.norm()
    assert error < 0.02, error  # the plain one rounds to bf16 in between
    graph, y = capture(mlp)
    assert launches(graph.replay).names == seen.names
    assert torch.equal(y, mlp())


def test_the_helper_tells_copies_and_fills_from_kernels() -> None:
    source, target = torch.randn(1 << 20, device="cuda"), torch.empty(1 << 20, device="cuda")
    host = torch.empty(1 << 20, pin_memory=True)

    def call() -> None:
        target.copy_(source)
        target.zero_()
        host.copy_(target, non_blocking=True)
        target.add_(1)

    seen = launches(call)
    assert seen.count == 4, str(seen)
    assert (seen.memcpys, seen.kernels + seen.memsets) == (2, 2), str(seen)
    nothing = launches(lambda: None)
    assert nothing.count == 0
