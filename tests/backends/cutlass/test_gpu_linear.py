"""Linears of this backend on a real GPU: launches of a padded one, capture, threads, devices."""

from __future__ import annotations

from dataclasses import replace
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
import torch

import quantmux as qm
from quantmux.config import LinearConfig
from quantmux.ops.linear.reference import linear_exact
from quantmux.ops.linear.spec import make_inputs
from quantmux.ops.linear.tolerance import compare, linear_magnitude
from quantmux.ops.spec import Case
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
]

PADDED = [(2048, 1368), (1280, 3420), (1000, 1000)]
"""N×K whose weights are padded: of vLLM's pull request 42651, and one where N is odd too."""

KERNELS = {
    "cutlass/linear_fp8_small_m": 16,
    "cutlass/linear_fp8": 256,
    "cutlass/linear_fp8_direct": 256,
}


def bound(
    n: int, k: int, m: int, force: str, device: str = "cuda:0", scheme: str = "fp8_channel_token"
) -> tuple[Any, torch.Tensor, LinearWeights, LinearConfig]:
    """Give a bound linear of one kernel, its plain x, and what they mean."""
    config = LinearConfig(in_features=k, out_features=n, scheme=scheme)
    x, weights = make_inputs(Case(config, m), device, seed=3).args
    selection = qm.select(config, torch.device(device), m=m, force=force)
    return bind(selection, weights, wait=True), x, weights, config


@pytest.mark.parametrize(("n", "k"), PADDED)
@pytest.mark.parametrize("force", KERNELS)
def test_a_padded_linear_launches_its_producer_and_its_gemm_and_nothing_else(
    n: int, k: int, force: str
) -> None:
    m = KERNELS[force]
    call, x, weights, config = bound(n, k, m, force)
    names = launched(lambda: call(x), 3)
    assert len(names) == 2 * 3, names
    y = call(x)
    assert y.shape == (m, n)
    exact, size = linear_exact(x, weights, config), linear_magnitude(x, weights, config)
    compare(y, exact, config=config, magnitude=size).require(force)


@pytest.mark.parametrize("force", KERNELS)
def test_a_replayed_graph_gives_the_bits_of_a_call(force: str) -> None:
    call, x, _, _ = bound(1000, 1000, KERNELS[force], force)
    want = call(x).clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = call(x)
    y.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(y, want)


@pytest.mark.parametrize("force", KERNELS)
def test_threads_on_streams_of_their_own_get_the_bits_of_one(force: str) -> None:
    call, x, _, _ = bound(1000, 1000, KERNELS[force], force)
    want, wrong = call(x).clone(), []
    torch.cuda.synchronize()

    def work() -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            wrong.extend(1 for _ in range(50) if not torch.equal(call(x), want))

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("force", KERNELS)
def test_a_layer_on_the_second_gpu_runs_there_and_leaves_the_first_current(force: str) -> None:
    call, x, weights, config = bound(1000, 1000, KERNELS[force], force, "cuda:1")
    assert torch.cuda.current_device() == 0
    y = call(x)
    assert y.device == torch.device("cuda", 1)
    assert torch.cuda.current_device() == 0
    there, here = x.cpu(), replace(weights, **{k: v.cpu() for k, v in weights.named().items()})
    exact, size = linear_exact(there, here, config), linear_magnitude(there, here, config)
    compare(y.cpu(), exact, config=config, magnitude=size).require(force)
