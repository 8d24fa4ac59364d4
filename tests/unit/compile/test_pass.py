"""The pass on graphs that torch.compile made: what is rewritten, what is left, and what it says."""

import json
import pickle
import threading
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional

from quantmux.compile import FusionPass, fusion_pass
from quantmux.config import QuantizeConfig
from quantmux.layers.linear import Linear
from quantmux.layers.quantize import quantize_
from quantmux.layers.shared import shared_input
from quantmux.ops.quantized import empty_quantized
from quantmux.runtime.producers import quantize

SCHEME = "fp8_channel_token"
K, N = 128, 256


def ops(compiled):
    """Give the quantmux ops of every graph, in order."""
    return [
        [
            str(node.target).removeprefix("quantmux.").removesuffix(".default")
            for node in gm.graph.nodes
            if node.op == "call_function" and "quantmux" in str(node.target)
        ]
        for gm in compiled.graphs
    ]


class Norm(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(n))

    def forward(self, x):
        h = x.float()
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * h.to(x.dtype)


class Block(nn.Module):
    """A decoder block, its attention left out."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = Norm(K), Norm(K)
        self.q, self.k, self.v = (nn.Linear(K, n, bias=False) for n in (K, 64, 64))
        self.gate_up = nn.Linear(K, 2 * N, bias=False)
        self.down = nn.Linear(N, K, bias=False)

    def forward(self, x):
        h = self.norm1(x)
        x = x + self.q(h) + torch.cat([self.k(h), self.v(h)], -1)
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        return x + self.down(functional.silu(gate) * up)


def block(scheme=SCHEME):
    torch.manual_seed(0)
    model = Block().to(torch.bfloat16).eval()
    quantize_(model, scheme)
    return model


def close(got, want, part=0.02):
    error = (got.float() - want.float()).norm() / want.float().norm()
    assert float(error) < part, float(error)


@pytest.mark.parametrize("scheme", [SCHEME, "fp8_block128", "fp8_block128_pow2", "nvfp4_dynamic"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_block_has_three_sites_and_all_are_taken(through, scheme, dynamic):
    model, one = block(scheme), fusion_pass()
    compiled = through(model, one, dynamic=dynamic)
    x = torch.randn(2, 5, K, dtype=torch.bfloat16)
    with torch.no_grad():
        close(compiled(x), model(x), 0.05 if "nvfp4" in scheme else 0.02)
    assert ops(compiled) == [["fused_linear"] * 3]
    report = one.report(quiet=True)
    assert [(s.pattern, s.taken, s.into) for s in report.sites] == [
        ("rmsnorm", True, ("q", "k", "v")),
        ("rmsnorm", True, ("gate_up",)),
        ("silu_mul", True, ("down",)),
    ]
    assert all(site.line.startswith("test_pass.py:") for site in report.sites)
    assert {s.rows for s in report.sites} == ({(10, 10)} if not dynamic else {report.sites[0].rows})


def test_the_bounds_of_a_dynamic_m_are_those_of_the_graph(through):
    one = fusion_pass()
    x = torch.randn(5, K, dtype=torch.bfloat16)
    torch._dynamo.mark_dynamic(x, 0, min=2, max=64)
    with torch.no_grad():
        through(block(), one)(x)
    assert {site.rows for site in one.sites} == {(2, 64)}


def test_a_second_run_changes_nothing_and_reports_nothing_twice(through):
    one = fusion_pass()
    texts = []
    compiled = through(
        block(), one, lambda g: texts.append(str(g)), one, lambda g: texts.append(str(g))
    )
    with torch.no_grad():
        compiled(torch.randn(5, K, dtype=torch.bfloat16))
    assert texts[0] == texts[1]
    assert len(one.sites) == 3
    assert one.report(quiet=True).graphs == 1


def test_what_is_refused_is_not_reported_twice_either(through):
    one = fusion_pass({"deny": ["*/silu_mul_quantize*"]})
    compiled = through(block(), one, one)
    with torch.no_grad():
        compiled(torch.randn(5, K, dtype=torch.bfloat16))
    assert [site.taken for site in one.sites] == [True, True, False]
    (refused,) = one.report(quiet=True).refused
    why = {(r.who, str(r.rejection.code)) for r in refused.refusals}
    assert ("torch/silu_mul_quantize", "denied") in why
    assert ops(compiled) == [["fused_linear", "fused_linear", "linear"]]


class Down(nn.Module):
    """A layer with a policy of its own behind SiLU·mul."""

    def __init__(self, **policy):
        super().__init__()
        weight = torch.randn(64, N, dtype=torch.bfloat16)
        self.down = Linear.from_float(weight, SCHEME, policy=policy)

    def forward(self, x):
        gate, up = x.chunk(2, -1)
        return self.down(functional.silu(gate) * up)


def test_what_a_layers_own_policy_denies_is_not_fused_into_it(through, random):
    model, one = Down(deny=["torch/silu_mul_quantize"]), fusion_pass()
    compiled = through(model, one)
    x = random(5, 2 * N)
    with torch.no_grad():
        assert torch.equal(compiled(x), model(x))
    assert ops(compiled) == [["linear"]]
    (refused,) = one.report(quiet=True).refused
    why = {(r.who, str(r.rejection.code)) for r in refused.refusals}
    assert ("torch/silu_mul_quantize", "denied") in why
    assert "the layer's own policy" in " ".join(str(one.report(quiet=True)).split())


def test_a_norm_that_cannot_be_fused_leaves_the_shared_input(through):
    model, one = block(), fusion_pass({"deny": ["*/rmsnorm_quantize*"]})
    texts = []
    compiled = through(
        model, one, lambda g: texts.append(str(g)), one, lambda g: texts.append(str(g))
    )
    x = torch.randn(5, K, dtype=torch.bfloat16)
    with torch.no_grad():
        close(compiled(x), model(x))
    assert texts[0] == texts[1]
    assert ops(compiled) == [["fused_linear", "linear", "fused_linear"]]
    assert [(s.pattern, s.taken) for s in one.sites] == [
        ("rmsnorm", False),
        ("shared input", True),
        ("rmsnorm", False),
        ("silu_mul", True),
    ]


class Reads(nn.Module):
    """A norm whose value is read by somebody else, too."""

    def __init__(self):
        super().__init__()
        self.norm, self.a, self.b = Norm(K), nn.Linear(K, 64), nn.Linear(K, 64)

    def forward(self, x):
        h = self.norm(x)
        return self.a(h), self.b(h), h


def test_a_value_that_is_read_elsewhere_is_computed_as_before(through):
    torch.manual_seed(0)
    model, one = Reads().to(torch.bfloat16).eval(), fusion_pass()
    quantize_(model, SCHEME)
    compiled = through(model, one)
    x = torch.randn(5, K, dtype=torch.bfloat16)
    with torch.no_grad():
        got, want = compiled(x), model(x)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert [(s.pattern, s.taken) for s in one.sites] == [("rmsnorm", False), ("shared input", True)]
    assert "computed anyway" in one.sites[0].reasons[0]


class Quantizes(nn.Module):
    """SiLU·mul that the model quantizes itself, once or twice, functional or in place."""

    def __init__(self, config, how, times=1):
        super().__init__()
        self.config, self.how, self.times = config, how, times

    def forward(self, x, scale=None):
        gate, up = x.chunk(2, -1)
        h = functional.silu(gate) * up
        made = []
        for _ in range(self.times):
            out = None
            if self.how == "out":
                out = empty_quantized(self.config.operand, self.config.layout, x.shape[0], N, "cpu")
            q = quantize(h, self.config, scale=scale, out=out)
            made += [q.data, q.scales]
        return made


CONFIGS = {
    "token": QuantizeConfig(operand="fp8_token", n=N),
    "aligned": QuantizeConfig(operand="fp8_group128_pow2", n=N, layout="col_major_aligned4"),
    "padded": QuantizeConfig(operand="fp8_token", n=N, padded_n=N + 64),
    "static": QuantizeConfig(operand="fp8_tensor_static", n=N),
}


@pytest.mark.parametrize(
    ("config", "how"),
    [
        pytest.param(config, how, id=f"{name}-{how}")
        for name, config in CONFIGS.items()
        for how in ("functional", "out")
        # an output whose scales have pad rows behind them is not traced, with or without the pass
        if (name, how) != ("aligned", "out")
    ],
)
def test_silu_mul_before_a_quantizer_is_fused_with_it(through, random, config, how):
    from quantmux.ops.silu_mul_quantize.reference import silu_mul_quantize
    from quantmux.runtime.traced.prologue import Prologue

    one = fusion_pass()
    compiled = through(Quantizes(config, how), one, one)
    x = random(5, 2 * N)
    scale = torch.tensor([0.5]) if not config.operand.dynamic else None
    with torch.no_grad():
        data, scales = compiled(x, scale)
    want = silu_mul_quantize(x, Prologue("silu_mul", "bf16").producer(config), scale=scale)
    assert torch.equal(data.view(torch.uint8), want.data.view(torch.uint8))
    assert torch.equal(scales, want.scales)
    assert scales.stride() == want.scales.stride()
    (site,) = one.sites
    assert site.taken
    assert site.into == (f"quantize {config.operand.name} {config.layout}",)


class Apart(nn.Module):
    """Two linears, each behind a quantizer of its own, all of one x; or the results themselves."""

    def __init__(self, given):
        super().__init__()
        self.given = given
        weights = (torch.randn(24, N), torch.randn(40, N))
        self.layers = nn.ModuleList(
            Linear.from_float(w.bfloat16(), "fp8_channel_token") for w in weights
        )
        self.config = self.layers[0].input_layout(5)

    def forward(self, x, _out):
        made = [quantize(x, self.config) for _ in self.layers]
        ys = [layer(q) for layer, q in zip(self.layers, made, strict=True)]
        return [*ys, *(q.data for q in made[: self.given])]


@pytest.mark.parametrize(("given", "quantizers"), [(0, 1), (1, 1), (2, 2)])
def test_equal_quantizers_become_one_unless_both_are_given_away(through, random, given, quantizers):
    torch.manual_seed(0)
    model = Apart(given)
    one = fusion_pass()
    compiled = through(model, one, one)
    x = random(5, N).bfloat16()
    with torch.no_grad():
        got, want = compiled(x, None), model(x, None)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a.view(torch.uint8), b.view(torch.uint8))
    assert len({y.data_ptr() for y in got}) == len(got)
    (names,) = ops(compiled)
    assert names.count("quantize") == quantizers
    assert [(s.pattern, s.taken) for s in one.sites] == [("equal quantize", True)] * (
        2 - quantizers
    )


class Two(nn.Module):
    """Gate and up in two linears, or the halves the other way round."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.gate, self.up = nn.Linear(K, N), nn.Linear(K, N)
        self.both, self.down = nn.Linear(K, 2 * N), nn.Linear(N, K)

    def forward(self, x):
        if self.how == "two":
            gate, up = self.gate(x), self.up(x)
        else:
            up, gate = self.both(x).chunk(2, -1)
        return self.down(functional.silu(gate) * up)


@pytest.mark.parametrize(("how", "said"), [("two", "two tensors"), ("turned", "[up | gate]")])
def test_what_no_kernel_reads_is_refused_with_the_reason(through, how, said):
    torch.manual_seed(0)
    model, one = Two(how).to(torch.bfloat16).eval(), fusion_pass()
    quantize_(model, SCHEME)
    compiled = through(model, one)
    x = torch.randn(5, K, dtype=torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(compiled(x), model(x))
    site = one.sites[-1]
    assert (site.pattern, site.taken) == ("silu_mul", False)
    assert said in site.reasons[0]


def test_an_op_of_shared_input_is_taken_apart_for_a_norm(through):
    torch.manual_seed(0)
    model = Reads().to(torch.bfloat16).eval()
    quantize_(model, SCHEME)
    shared = shared_input([model.a, model.b])

    def call(x):
        return shared(model.norm(x))

    one = fusion_pass()
    compiled = through(call, one, one)
    x = torch.randn(5, K, dtype=torch.bfloat16)
    with torch.no_grad():
        for got, want in zip(compiled(x), call(x), strict=True):
            close(got, want)
    assert ops(compiled) == [["fused_linear"]]
    (site,) = one.sites
    assert (site.pattern, site.taken, len(site.into)) == ("rmsnorm", True, 2)


def test_a_graph_of_nothing_of_ours_is_left_alone(through):
    one = fusion_pass()
    compiled = through(lambda x: functional.silu(x) * 2, one)
    compiled(torch.ones(3))
    assert one.sites == ()
    assert one.report(quiet=True).graphs == 1


def test_several_graphs_are_told_apart(through):
    one = fusion_pass()
    for _ in range(2):
        with torch.no_grad():
            through(block(), one)(torch.randn(5, K, dtype=torch.bfloat16))
    assert [site.graph for site in one.sites] == [1, 1, 1, 2, 2, 2]
    assert [c["taken"] for c in one.report(quiet=True).to_dict()["per_graph"]] == [3, 3]


def test_threads_may_share_a_pass(through):
    captured = []
    with torch.no_grad():
        through(block(), captured.append)(torch.randn(5, K, dtype=torch.bfloat16))
    graphs = [deepcopy(captured[0]) for _ in range(8)]
    one, failed = fusion_pass(), []

    def run(graph):
        try:
            one(graph)
        except Exception as error:  # noqa: BLE001 - shown by the test
            failed.append(error)

    threads = [threading.Thread(target=run, args=(graph,)) for graph in graphs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sorted(site.graph for site in one.sites) == sorted([*range(1, 9)] * 3)


def test_the_report_is_text_and_data(through, capsys):
    one = fusion_pass({"deny": ["*/silu_mul_quantize*"]})
    with torch.no_grad():
        through(block(), one)(torch.randn(5, K, dtype=torch.bfloat16))
    report = one.report()
    printed = capsys.readouterr().out
    assert printed == f"{report}\n"
    assert "3 sites: 2 taken, 1 refused" in printed
    assert "torch/rmsnorm_quantize" in printed
    assert "denied" in printed
    data = json.loads(json.dumps(report.to_dict()))
    assert (data["taken"], data["refused"], data["graphs"]) == (2, 1, 1)
    refused = data["sites"][-1]["segments"][0]["refusals"]
    assert ("torch/silu_mul_quantize", "denied") in {(r["who"], r["code"]) for r in refused}


def test_copies_of_a_pass_are_the_pass_and_pickles_are_equal_ones():
    one = fusion_pass({"deny": ["acme"]})
    assert deepcopy(one) is one
    other = pickle.loads(pickle.dumps(one))  # noqa: S301 - our own bytes
    assert isinstance(other, FusionPass)
    assert other.uuid() == one.uuid()
    assert pickle.loads(pickle.dumps(fusion_pass(cache=False))).uuid() is None  # noqa: S301
