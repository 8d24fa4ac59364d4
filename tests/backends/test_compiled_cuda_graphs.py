"""CUDA graphs of compiled models: inductor's own, and a capture by hand; no weight is copied."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
import torch
from torch._inductor import cudagraph_trees

import quantmux as qm
from quantmux.errors import SelectionError
from quantmux.testing import launches

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    # inductor's and Triton's own, of some releases
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*TensorFloat32:UserWarning"),
    # inductor's trees begin with one, and a refusal leaves one
    pytest.mark.filterwarnings("ignore:The CUDA Graph is empty:UserWarning"),
]

WIDTHS = ((1368, 2048), (2048, 1536), (1536, 512))
"""K and N of three linears, one behind the other; the first K has to be padded."""


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield
    torch._dynamo.reset()


class Chain(torch.nn.Module):
    """Linears with something between them that inductor compiles."""

    def __init__(self, scheme: str) -> None:
        super().__init__()
        generator = torch.Generator("cuda").manual_seed(5)
        self.layers = torch.nn.ModuleList()
        for place, (k, n) in enumerate(WIDTHS):
            weight = torch.randn(n, k, generator=generator, device="cuda", dtype=torch.bfloat16)
            policy = {"force": "triton"}
            self.layers.append(
                qm.Linear.from_float(weight / k**0.5, scheme, layer=f"{place}", policy=policy)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def chain(scheme: str, ms: tuple[int, ...]) -> Chain:
    try:
        made = Chain(scheme)
    except SelectionError as error:
        pytest.skip(f"not here: {error.headline}")
    qm.warmup(made, ms=ms)
    return made


def rows(m: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(m + 1000 * seed)
    return torch.randn(m, WIDTHS[0][0], generator=generator, device="cuda", dtype=torch.bfloat16)


def copied_inputs() -> int:
    """Give how many inputs the last graph of inductor's trees copies before a replay."""
    manager = cudagraph_trees.get_manager(torch.cuda.current_device(), False)
    assert manager is not None
    node = manager.current_node
    assert isinstance(node, cudagraph_trees.CUDAGraphNode)
    return len(node.non_static_input_idx)


schemes = pytest.mark.parametrize("scheme", ["fp8_channel_token", "fp8_block128"])


@schemes
def test_inductors_graphs_give_the_bits_of_eager_calls_and_copy_the_input_alone(
    scheme: str,
) -> None:
    model = chain(scheme, (16,))
    compiled = torch.compile(model, mode="reduce-overhead", fullgraph=True)
    for seed in range(5):
        x = rows(16, seed)
        torch.compiler.cudagraph_mark_step_begin()
        assert torch.equal(compiled(x), model(x)), seed
    x = rows(16)

    def call() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        compiled(x)

    eager, replayed = launches(lambda: model(x)), launches(call, warm=3)
    assert eager.count == 6, str(eager)
    # one kernel copies all inputs that may lie elsewhere next time into the graph's own buffers
    assert replayed.count <= eager.count + 1, f"{eager}\n{replayed}"
    assert copied_inputs() == 1  # x, and no weight
    assert [n for n in replayed.names if n in eager.names] == list(eager.names), str(replayed)


@schemes
def test_a_compiled_model_is_captured_by_hand_and_nothing_is_copied(scheme: str) -> None:
    model = chain(scheme, (16,))
    compiled = torch.compile(model, fullgraph=True)
    x = rows(16)
    compiled(x)
    gc.collect()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = compiled(x)
    for seed in (1, 2):
        x.copy_(rows(16, seed))
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(y, model(x)), seed
    replayed = launches(graph.replay)
    assert replayed.names == launches(lambda: model(x)).names, str(replayed)
    assert replayed.memcpys == replayed.memsets == 0


def test_every_number_of_rows_has_its_graph() -> None:
    model = chain("fp8_channel_token", (1, 16, 100))
    compiled = torch.compile(model, mode="reduce-overhead", fullgraph=True, dynamic=False)
    for _ in range(3):
        for m in (1, 16, 100):
            x = rows(m)
            torch.compiler.cudagraph_mark_step_begin()
            assert torch.equal(compiled(x), model(x)), m


def test_a_compiled_model_that_was_never_warmed_up_is_refused_in_a_capture() -> None:
    model = Chain("fp8_channel_token")
    compiled = torch.compile(model, fullgraph=True)
    x = rows(16)
    gc.collect()  # or tracing might collect, hence destroy, an older graph in the capture
    graph = torch.cuda.CUDAGraph()
    # dynamo, which traces here, wraps the error; its text stays
    refusal = pytest.raises(RuntimeError, match="not warmed up for it")
    with refusal, torch.cuda.graph(graph):
        compiled(x)
    assert all(layer.bound is None for layer in model.layers)
