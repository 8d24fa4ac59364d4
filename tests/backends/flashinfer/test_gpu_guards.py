"""Streams, graphs and threads that call the library at once, on a real GPU."""

from __future__ import annotations

import threading
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
import torch

from quantmux_flashinfer.library import functions, guards
from quantmux_flashinfer.linear import fp8_entries

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0),
        reason="needs a Hopper GPU",
    ),
    pytest.mark.skipif(find_spec("flashinfer") is None, reason="flashinfer is not installed"),
]
E4M3 = torch.float8_e4m3fn
STREAMS = 4


def here() -> Any:
    from quantmux.capability.detect import device_here

    return device_here(torch.device("cuda", torch.cuda.current_device()))


def built(entry: Any) -> Callable[..., Any]:
    """Give the function, after waiting for its module."""
    from quantmux.runtime.waiting import patiently

    return patiently(lambda: functions.function(entry, here()))


def small_m_bmm(seed: int) -> tuple[dict[str, Any], torch.Tensor]:
    """Give a product that is split along K, so that partial sums lie in the scratch buffer."""
    generator = torch.Generator("cuda").manual_seed(seed)
    a = torch.randn(1, 16, 16384, device="cuda", generator=generator).to(E4M3)
    b = torch.randn(1, 512, 16384, device="cuda", generator=generator).to(E4M3)
    one = torch.ones(1, device="cuda")
    out = torch.empty(1, 16, 512, device="cuda", dtype=torch.bfloat16)
    call = {
        "A": a,
        "B": b.transpose(1, 2),
        "A_scale": one,
        "B_scale": one,
        "dtype": torch.bfloat16,
        "out": out,
        "backend": "cublas",
    }
    return call, a.float() @ b.float().transpose(1, 2)


def block(seed: int) -> tuple[dict[str, Any], torch.Tensor]:
    """Give a block-scaled product of bf16, which is quantized into the scratch buffer."""
    generator = torch.Generator("cuda").manual_seed(seed)
    x = torch.randn(16, 2048, device="cuda", generator=generator).bfloat16()
    w = torch.randn(1024, 2048, device="cuda", generator=generator).to(E4M3)
    scales = torch.ones(8, 16, device="cuda")
    out = torch.empty(16, 1024, device="cuda", dtype=torch.bfloat16)
    call = {"input": x, "weight": w, "weight_scale": scales, "out": out}
    return call, x.float() @ w.float().t()


def off(y: torch.Tensor, expected: torch.Tensor) -> float:
    return float((y.float() - expected).norm() / expected.norm())


CASES = [
    pytest.param(fp8_entries.CUBLAS, small_m_bmm, id="bmm_fp8"),
    pytest.param(fp8_entries.BLOCK_SM90_INSIDE, block, id="blockscale"),
]


@pytest.mark.parametrize(("entry", "make"), CASES)
def test_streams_that_run_at_once_disturb_each_other_in_no_call(entry: Any, make: Any) -> None:
    call = built(entry)
    given = [make(seed) for seed in range(STREAMS)]
    streams = [torch.cuda.Stream() for _ in given]
    alone = [call(**kwargs).clone() for kwargs, _ in given]
    for (_, expected), y in zip(given, alone, strict=True):
        assert off(y, expected) < 0.05
    for _ in range(200):
        for stream, (kwargs, _) in zip(streams, given, strict=True):
            stream.wait_stream(torch.cuda.default_stream())
            with torch.cuda.stream(stream):
                call(**kwargs)
        torch.cuda.synchronize()
        for (kwargs, _), y in zip(given, alone, strict=True):
            assert torch.equal(kwargs["out"], y)


@pytest.mark.parametrize(("entry", "make"), CASES)
def test_graphs_that_are_replayed_at_once_disturb_nobody(entry: Any, make: Any) -> None:
    call = built(entry)
    given = [make(seed) for seed in range(STREAMS)]
    alone = [call(**kwargs).clone() for kwargs, _ in given]
    torch.cuda.synchronize()
    table = dict(guards._table())
    graphs = []
    for kwargs, _ in given[1:]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(20):
                call(**kwargs)
        graphs.append(graph)
    assert guards._table() == table  # nothing of a graph is left where others would find it
    streams = [torch.cuda.Stream() for _ in graphs]
    for _ in range(50):
        for stream, graph in zip(streams, graphs, strict=True):
            with torch.cuda.stream(stream):
                graph.replay()
        for _ in range(20):
            call(**given[0][0])
        torch.cuda.synchronize()
        for (kwargs, _), y in zip(given, alone, strict=True):
            assert torch.equal(kwargs["out"], y)


@pytest.mark.parametrize(("entry", "make"), CASES)
def test_threads_on_streams_of_their_own_are_right(entry: Any, make: Any) -> None:
    """Without the lock, 964 of 1200 calls raised and the context was lost (H200, 2026-11-21)."""
    call = built(entry)
    given = [make(seed) for seed in range(STREAMS)]
    alone = [call(**kwargs).clone() for kwargs, _ in given]
    torch.cuda.synchronize()
    wrong: list[object] = []

    def work(place: int) -> None:
        try:
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                for _ in range(300):
                    call(**given[place][0])
                    stream.synchronize()
                    if not torch.equal(given[place][0]["out"], alone[place]):
                        wrong.append(place)
        except Exception as error:  # noqa: BLE001 - told to the test's own thread
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(STREAMS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_guard_costs_less_than_a_small_tensor(
    record_property: Callable[[str, object], None],
) -> None:
    room = guards.workspaces(torch.cuda.current_device())

    def nothing(*_args: Any, **_kwargs: Any) -> None:
        return None

    def small(*_args: Any, **_kwargs: Any) -> None:
        torch.empty(1, device="cuda")

    # against something of the same host: what is rented differs by a factor of three
    call = guards.by_stream(nothing, room, torch.cuda.current_device())
    best: dict[str, float] = {}
    for _ in range(10):
        for name, function in (("direct", nothing), ("guarded", call), ("small", small)):
            start = time.perf_counter()
            for _ in range(5000):
                function(1, 2, 3, 4, out=5)
            took = (time.perf_counter() - start) / 5000
            best[name] = min(best.get(name, 1.0), took)
    added = (best["guarded"] - best["direct"]) * 1e6
    record_property("added_us", round(added, 3))
    assert added < (best["small"] - best["direct"]) * 1e6, best
