"""On a GPU, in inductor: what the pass fuses is what the definition says, and what it gave before.

Run by name: needs an NVIDIA GPU and Triton. Every config has an x of its own, so that each is
fused or refused for itself; a refused one must be untouched.
"""

import pytest
import torch
from torch.nn import functional

from quantmux import quantize
from quantmux.capability.rejection import RejectionCode
from quantmux.compile import fusion_pass
from quantmux.config import QuantizeConfig
from quantmux.config.layouts import layouts_for
from quantmux.config.operands import OPERANDS, operand
from quantmux.layers.linear import Linear
from quantmux.ops.dequantize import dequantize, dequantize_weights
from quantmux.ops.quantize.compare import Freedom, compare_quantized
from quantmux.ops.quantized import QuantizedTensor

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.filterwarnings("ignore"),  # inductor's own, which differ between releases
]

N = 1024
EPS = 1e-6
ROWS = (33, 257)
ASKED = [
    QuantizeConfig(operand=name, n=N, layout=layout, padded_n=padded)
    for name in OPERANDS
    if operand(name).block.rows in (1, -1)
    for layout in layouts_for(operand(name))
    for padded in (None, N + 128)
]
# No backend norms into one dynamic scale for all of x but by torch's reference, and that must not
# take the place of a real quantizer (H200, 2026-11-21).
REFUSED = {("fp8_tensor", "rmsnorm")}
DENY = {"deny": ["*/silu_mul_quantize*", "*/rmsnorm_quantize*"]}


def silu_mul(x, _weight):
    gate, up = x.chunk(2, -1)
    return functional.silu(gate) * up


def llama_norm(x, weight):
    h = x.float()
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + EPS)
    return weight * h.to(x.dtype)


PROLOGUES = {"silu_mul": (silu_mul, 2), "rmsnorm": (llama_norm, 1)}


@pytest.fixture(autouse=True)
def dynamo():
    torch._dynamo.reset()
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


def compiled(model, passed, *args):
    torch._dynamo.reset()
    options = {"post_grad_custom_pre_pass": passed, "fx_graph_cache": False}
    made = torch.compile(model, fullgraph=True, options=options)
    results = []
    for xs in args:
        for x in xs:
            torch._dynamo.mark_dynamic(x, 0)
        with torch.no_grad():
            results.append(made(xs))
    return results


def scales_of(config):
    given = {}
    if not config.operand.dynamic:
        given["scale"] = torch.tensor([0.0625], device="cuda")
    if config.operand.global_scale == "static":
        given["global_scale"] = torch.tensor([0.003], device="cuda")
    return given


def inputs(m, halves, count):
    magnitudes = 10.0 ** torch.linspace(-2, 1, halves * N, device="cuda")
    return [
        (torch.randn(m, halves * N, device="cuda") * magnitudes).bfloat16() for _ in range(count)
    ]


def exactly(prologue, x, weight):
    """Give the prologue in fp32, nothing of it rounded to 16 bit."""
    if prologue == "silu_mul":
        gate, up = x.float().chunk(2, -1)
        return gate / (1 + torch.exp(-gate)) * up
    return functional.rms_norm(x.float(), (N,), weight.float(), EPS)


@pytest.mark.parametrize("prologue", PROLOGUES)
def test_every_operand_and_layout(prologue, capsys):
    before, halves = PROLOGUES[prologue]
    weight = torch.randn(N, device="cuda").bfloat16()
    given = [scales_of(config) for config in ASKED]

    def model(xs):
        return [
            tuple(quantize(before(x, weight), config, **more).tensors())
            for x, config, more in zip(xs, ASKED, given, strict=True)
        ]

    xs = [inputs(m, halves, len(ASKED)) for m in ROWS]
    passed, without = fusion_pass(), fusion_pass(DENY)
    got, want = compiled(model, passed, *xs), compiled(model, without, *xs)
    assert len(passed.sites) == len(ASKED)
    assert not any(site.taken for site in without.sites)
    taken = [site.taken for site in passed.sites]
    with capsys.disabled():  # for whoever runs it by name
        print(f"\n{prologue}: {sum(taken)} of {len(taken)} configs fused on this GPU")  # noqa: T201
    assert any(taken)
    for m, some, gots, wants in zip(ROWS, xs, got, want, strict=True):
        rows = zip(ASKED, some, gots, wants, taken, given, strict=True)
        for config, x, one, other, fused, more in rows:
            q, plain = (
                QuantizedTensor(*(*t, None)[:3], config.operand, config.layout, (m, N))
                for t in (one, other)
            )
            if not fused:
                compare_quantized(q, plain).require(f"{config}, refused")
                continue
            exact = exactly(prologue, x, weight)
            asked = quantize(exact, config.replace(in_dtype="fp32"), backend="torch", **more)
            freedom = Freedom(approximate=True)
            compare_quantized(q, asked, values=exact, freedom=freedom).require(str(config))
            a, b = dequantize(q), dequantize(plain)
            room = {"int8": 0.02, "fp4_e2m1": 0.1}.get(config.operand.element, 0.04)
            assert (a - b).norm() <= room * b.norm(), config


@pytest.mark.parametrize("prologue", PROLOGUES)
@pytest.mark.parametrize(
    "name", ["fp8_tensor", "fp8_channel_token", "fp8_block128", "int8_channel_token"]
)
def test_linears_behind_it(name, prologue):
    before, halves = PROLOGUES[prologue]
    weight = torch.randn(N, device="cuda").bfloat16()
    made = Linear.from_float(torch.randn(512, N, device="cuda") / 32, name, in_dtype="bf16")

    values = dequantize_weights(made.weights, made.config.scheme.weight, 512, N)

    def model(xs):
        return [made(before(xs[0], weight))]

    xs = [inputs(m, halves, 1) for m in ROWS]
    passed, without = fusion_pass(), fusion_pass(DENY)
    got, want = compiled(model, passed, *xs), compiled(model, without, *xs)
    (site,) = passed.sites
    assert site.taken is ((name, prologue) not in REFUSED), str(passed.report(quiet=True))
    assert [site.taken for site in without.sites] == [False]
    if not site.taken:
        why = {r.rejection.code for r in site.refusals if r.who == f"torch/{prologue}_quantize"}
        assert why == {RejectionCode.NO_PRODUCER}, site.refusals
        assert all(torch.equal(a[0], b[0]) for a, b in zip(got, want, strict=True))
        return
    for x, (y,), (plain,) in zip(xs, got, want, strict=True):
        exact = exactly(prologue, x[0], weight) @ values.T
        assert (y.float() - plain.float()).norm() <= 0.03 * plain.float().norm()
        worse = (y.float() - exact).norm() / (plain.float() - exact).norm()
        assert worse <= 1.05  # one rounding less is no step away from the truth
