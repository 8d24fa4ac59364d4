"""On a GPU, in inductor: what a fused layer launches, and that a graph replays it bit for bit.

Run by name: needs an NVIDIA GPU and Triton. CUTLASS and FlashInfer are left out, whose libraries
would have to be compiled first.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional

import quantmux as qm
from quantmux.compile import fusion_pass
from quantmux.testing.launches import launches

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.filterwarnings("ignore"),  # inductor's own, which differ between releases
]

K, N = 1024, 2048


@pytest.fixture(autouse=True)
def here():
    """Only Triton and torch, and nothing compiled left behind."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    with torch.no_grad(), qm.policy(deny=["cutlass", "flashinfer"]):
        yield
    torch._dynamo.reset()


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(K))

    def forward(self, x):
        h = x.float()
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * h.to(x.dtype)


class Down(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Linear(N, K, bias=False)

    def forward(self, x):
        gate, up = x.chunk(2, -1)
        return self.down(functional.silu(gate) * up)


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = Norm()
        self.q, self.k, self.v = (nn.Linear(K, n, bias=False) for n in (K, 256, 256))

    def forward(self, x):
        h = self.norm(x)
        return self.q(h), self.k(h), self.v(h)


def compiled(kind, scheme, **options):
    model = kind().cuda().to(torch.bfloat16).eval()
    qm.quantize_(model, scheme)
    one = fusion_pass(cache=False)
    options = {"post_grad_custom_pre_pass": one, **options}
    return model, torch.compile(model, fullgraph=True, dynamic=False, options=options), one


def tensors(found):
    return found if isinstance(found, tuple) else (found,)


def close(got, want):
    for a, b in zip(tensors(got), tensors(want), strict=True):
        error = (a.float() - b.float()).norm() / b.float().norm()
        assert float(error) < 0.03, float(error)


def declared(site):
    """Give the launches that the kernels of a site declare, for the M of its graph."""
    (segment,) = site.segments
    made = [group.selection.range_for(site.rows[0]).pipeline.main for group in segment.groups]
    read = [consumer.pipeline.main for consumer in segment.consumers]
    return sum(kernel.capability.launches for kernel in (*made, *read))


@pytest.mark.parametrize("scheme", ["fp8_channel_token", "fp8_block128"])
@pytest.mark.parametrize("m", [1, 16, 300])
def test_a_down_projection_behind_silu_mul_launches_what_its_two_kernels_declare(scheme, m):
    model, call, one = compiled(Down, scheme)
    x = torch.randn(m, 2 * N, device="cuda", dtype=torch.bfloat16)
    close(call(x), model(x))
    assert [site.taken for site in one.sites] == [True]
    seen = launches(lambda: call(x))
    assert seen.count == declared(one.sites[0]), str(seen)
    if scheme == "fp8_channel_token":
        assert seen.count == 2, str(seen)


@pytest.mark.parametrize("m", [1, 16, 300])
def test_heads_behind_a_norm_launch_one_producer_and_a_product_each(m):
    model, call, one = compiled(Heads, "fp8_channel_token")
    x = torch.randn(m, K, device="cuda", dtype=torch.bfloat16)
    close(call(x), model(x))
    assert [(site.pattern, site.taken) for site in one.sites] == [("rmsnorm", True)]
    seen = launches(lambda: call(x))
    assert seen.count == declared(one.sites[0]), str(seen)


@pytest.mark.parametrize("kind", [Down, Heads])
def test_a_graph_replays_the_bits_of_a_call(kind):
    _, call, _ = compiled(kind, "fp8_channel_token")
    x = torch.randn(16, 2 * N if kind is Down else K, device="cuda", dtype=torch.bfloat16)
    call(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = tensors(call(x))
    for seed in range(3):
        torch.manual_seed(seed)
        x.copy_(torch.randn_like(x))
        graph.replay()
        want = tensors(call(x))
        assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))


def test_cuda_graph_trees_of_inductor_record_it():
    model, call, one = compiled(Down, "fp8_channel_token", **{"triton.cudagraphs": True})
    x = torch.randn(16, 2 * N, device="cuda", dtype=torch.bfloat16)
    for _ in range(4):
        torch.compiler.cudagraph_mark_step_begin()
        close(call(x).clone(), model(x))
    assert [site.taken for site in one.sites] == [True]


def test_what_was_never_called_is_refused_in_a_capture():
    model, call, _ = compiled(Down, "fp8_channel_token")
    x = torch.randn(16, 2 * N, device="cuda", dtype=torch.bfloat16)
    qm.warmup(model, ms=[16])
    del call
    from quantmux.runtime.traced.fused import Recipe
    from quantmux.runtime.traced.linear import expose
    from quantmux.runtime.traced.prologue import Prologue

    key, weights = expose(model.down.bind(), model.down.context, None)
    fused = Recipe(Prologue("silu_mul", "bf16"), (key,), None).key()
    graph = torch.cuda.CUDAGraph()
    with (
        pytest.raises(qm.LaunchError, match="while a CUDA graph is captured"),
        torch.cuda.graph(graph),
    ):
        torch.ops.quantmux.fused_linear([x], list(weights), fused)
    (y,) = torch.ops.quantmux.fused_linear([x], list(weights), fused)
    close(y, model(x))
