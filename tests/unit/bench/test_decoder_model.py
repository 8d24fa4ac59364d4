"""The decoder in plain PyTorch: shapes, attention, one graph, and what it is held against."""

import pytest
import torch

from quantmux.bench.decoder.attention import GroupedAttention, read_itself
from quantmux.bench.decoder.check import Judge
from quantmux.bench.decoder.compiled import compiled, forget
from quantmux.bench.decoder.model import Form
from quantmux.bench.decoder.shapes import TINY_DSV3, TINY_QWEN3, Gqa, decoder_shape
from quantmux.bench.decoder.state import StepCase, draw_state
from quantmux.bench.decoder.variants import Builder, warm
from quantmux.bench.decoder.weights import DrawnWeights
from quantmux.capability.detect import resolve_device
from quantmux.config.policy_context import use_policy
from quantmux.errors import ConfigError, NoKernelError
from quantmux.layers.shared import SharedInput
from quantmux.runtime.context import default_context

CPU = torch.device("cpu")
DECODE, PREFILL = StepCase("decode", 3), StepCase("prefill", 5)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture
def build(cpu):
    def make(shape, *, merged=True, scheme=None, device=cpu):
        weights = DrawnWeights(shape, scheme or shape.schemes[0], CPU, merged=merged)
        return Builder(shape, Form(merged=merged), weights, device, default_context())

    return make


def state_of(shape, case, form=Form()):  # noqa: B008 - frozen
    return draw_state(shape, case, form, CPU, kv_length=16)


def test_the_linears_are_those_of_the_public_configs():
    qwen, dsv3 = decoder_shape("qwen3-8b"), decoder_shape("dsv3")
    assert qwen.counted(merged=True) == {
        (6144, 4096): 4, (4096, 4096): 4, (24576, 4096): 4, (4096, 12288): 4,
    }  # fmt: skip
    first, second = dsv3.linears(0, merged=False), dsv3.linears(1, merged=False)
    assert [(one.name, one.n, one.k) for one in first] == [
        ("q_a", 1536, 7168),
        ("kv_a", 576, 7168),
        ("q_b", 24576, 1536),
        ("kv_b", 32768, 512),
        ("o", 7168, 16384),
        ("gate_up", 36864, 7168),
        ("down", 7168, 18432),
    ]
    assert [(one.n, one.k) for one in second[-2:]] == [(4096, 7168), (7168, 2048)]
    assert (2112, 7168) in dsv3.counted(merged=True)


def test_four_layers_are_colder_than_the_cache():
    for name in ("qwen3-8b", "dsv3"):
        counted = decoder_shape(name).counted(merged=True)
        assert sum(n * k * count for (n, k), count in counted.items()) > 300e6


def test_another_number_of_layers_begins_anew_after_the_last():
    assert decoder_shape("dsv3").with_layers(6).mlps == (18432, 2048, 2048, 2048, 18432, 2048)


def test_a_model_that_is_not_known_is_refused_with_a_guess():
    with pytest.raises(ConfigError, match="qwen3-8b"):
        decoder_shape("qwen3-8")


def test_a_token_of_a_prompt_is_the_token_over_its_cache():
    """Causal attention of a prompt, row by row, is attention over the cache of the rows so far."""
    shape, m = Gqa(heads=4, kv_heads=2, head_dim=8, theta=1e4), 6
    generator = torch.Generator().manual_seed(0)

    class Product(torch.nn.Module):
        def __init__(self, n, k):
            super().__init__()
            self.w = torch.randn(n, k, generator=generator)

        def forward(self, x):
            return x @ self.w.T

    linears = {"qkv": Product(64, 32), "o": Product(32, 32)}
    layer = GroupedAttention(shape, linears, 1e-6, CPU, attends=True).float()
    x = torch.randn(m, 32, generator=generator)
    cos, sin = torch.randn(2, m, 8, generator=generator)
    want = layer(x, cos, sin, None)
    keys, values = torch.full((2, 1, 2, m, 8), torch.nan)
    for t in range(m):
        cache = (keys[:, :, : t + 1], values[:, :, : t + 1], torch.tensor([t]))
        row = slice(t, t + 1)
        found = layer(x[row], cos[row], sin[row], cache)
        torch.testing.assert_close(found, want[row], rtol=1e-4, atol=1e-5)


def test_attention_left_out_is_a_softmax_over_the_token_and_a_null_key():
    q, k, v = torch.randn(3, 2, 4, 8).unbind()
    keys = torch.stack((k, torch.zeros_like(k)), dim=2)
    score = torch.einsum("mhd,mhsd->mhs", q, keys) * 8**-0.5
    want = score.softmax(-1)[..., :1] * v
    torch.testing.assert_close(read_itself(q, k, v), want)


@pytest.mark.parametrize("shape", [TINY_QWEN3, TINY_DSV3], ids=lambda shape: shape.name)
def test_merged_and_separate_linears_give_the_same_step(shape, build):
    state = state_of(shape, DECODE)
    one, other = (build(shape, merged=merged).exact()(*state.args) for merged in (True, False))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("shape", [TINY_QWEN3, TINY_DSV3], ids=lambda shape: shape.name)
def test_a_shared_input_is_quantized_once_and_gives_the_same_bits(shape, build, monkeypatch):
    builder, state = build(shape.with_layers(1), merged=False), state_of(shape, DECODE)
    want = builder.selection().model(*state.args)
    shared = builder.shared()
    counted = []
    quantize = SharedInput.quantize

    def counting(self, x):
        counted.append(len(self.layers))
        return quantize(self, x)

    monkeypatch.setattr(SharedInput, "quantize", counting)
    assert torch.equal(shared.model(*state.args), want)
    assert counted == [3 if shape is TINY_QWEN3 else 2]


@pytest.mark.parametrize("merged", [True, False], ids=["merged", "separate"])
@pytest.mark.parametrize("shape", [TINY_QWEN3, TINY_DSV3], ids=lambda shape: shape.name)
def test_a_step_is_one_graph_with_the_bits_of_eager(shape, merged, build):
    shape = shape.with_layers(1)
    builder = build(shape, merged=merged)
    variant = builder.selection()
    warm(variant, (DECODE.m, PREFILL.m))
    step = compiled(variant.model, backend="aot_eager").step  # fullgraph: a break raises
    for case in (DECODE, PREFILL):
        state = state_of(shape, case)
        want = variant.model(*state.args)
        assert torch.equal(step(*state.args), want)
        assert not torch.equal(want, state.x)
    forget()


def test_a_step_writes_its_keys_to_their_place_and_nowhere_else(build):
    state = state_of(TINY_QWEN3, DECODE)
    before = [tuple(t.clone() for t in cache) for cache in state.args[3]]
    build(TINY_QWEN3).exact()(*state.args)
    for old, new in zip(before, state.args[3], strict=True):
        for was, now in zip(old[:2], new[:2], strict=True):
            assert torch.equal(was[:, :, :-1], now[:, :, :-1])
            assert not torch.equal(was[:, :, -1], now[:, :, -1])


def test_all_are_as_far_off_as_their_numbers_cost_and_no_farther(build):
    builder, state = build(TINY_QWEN3), state_of(TINY_QWEN3, PREFILL)
    judge = Judge.of(state.x, builder.exact()(*state.args), builder.reference()(*state.args))
    assert 0.02 < judge.noise < 0.1  # FP8 activations, two layers
    assert judge.compare(builder.selection().model(*state.args), "selection").ok
    assert judge.compare(builder.bf16().model(*state.args), "bf16", quantized=False).ok


@pytest.mark.parametrize("name", ["layers.0.o", "layers.1.down"])
def test_one_linear_with_a_wrong_scale_is_seen(name, build):
    builder, state = build(TINY_QWEN3), state_of(TINY_QWEN3, PREFILL)
    judge = Judge.of(state.x, builder.exact()(*state.args), builder.reference()(*state.args))
    weights = builder.weights.canonical(name)
    weights.scales.mul_(1.2)
    found = judge.compare(builder.selection().model(*state.args), "selection")
    assert not found.ok
    assert "allowed" in str(found)


def test_nothing_written_and_other_shapes_are_not_ok():
    x = torch.randn(4, 8).bfloat16()
    exact = x + 1
    judge = Judge(x, exact, 0.05)
    assert judge.compare(exact.clone(), "itself").ok
    assert not judge.compare(torch.full_like(exact, torch.nan), "NaN").ok
    assert not judge.compare(exact[:2], "half of it").ok
    assert judge.same(exact.clone(), exact, "a graph").ok
    almost = exact.clone()
    almost[0, 0] += 0.125
    assert judge.compare(almost, "almost").ok
    assert not judge.same(almost, exact, "a graph").ok


def test_a_scheme_with_calibrated_scales_is_refused():
    with pytest.raises(ConfigError, match="fp8_channel_token"):
        DrawnWeights(TINY_QWEN3, "fp8_tensor_static", CPU, merged=True)


@pytest.mark.parametrize("backend", ["triton", "cutlass", "torch"])
def test_a_backend_alone_is_helped_by_torch_at_most(backend, build):
    """What would serve on an H200, found without one: only the backend, and what helps it."""
    h200 = resolve_device("h200")
    builder = build(TINY_QWEN3, device=h200)
    ms = (1, 64, 4096)
    config = next(iter(builder.weights.configs.values())).replace(
        in_features=4096, out_features=4096
    )
    policy, helper = builder.allowance(backend, config, ms)
    chosen = builder.context.select(config, h200, call_overrides=policy)
    kernels = {i for m in ms for i in chosen.pipeline_for(m).ids}
    consumers = {chosen.pipeline_for(m).ids[-1] for m in ms}
    assert {i.partition("/")[0] for i in kernels} <= {backend, *(["torch"] if helper else [])}
    assert {i.partition("/")[0] for i in consumers} == {backend}


def test_what_the_policy_denies_is_denied_to_a_backend_alone(build):
    """A list replaces a list: the deny of a backend alone must hold the user's, too."""
    builder = build(TINY_QWEN3)
    config = next(iter(builder.weights.configs.values()))
    taken = builder.context.select(config, builder.device, m=4).pipeline_for(4).main.id
    with use_policy(deny=[taken]):
        policy, _ = builder.allowance("torch", config, (4,))
        other = builder.context.select(config, builder.device, m=4, call_overrides=policy)
        assert other.pipeline_for(4).main.id != taken
    with use_policy(deny=["torch"]):
        policy, _ = builder.allowance("torch", config, (4,))
        with pytest.raises(NoKernelError):
            builder.context.select(config, builder.device, m=4, call_overrides=policy)


def test_a_backend_without_any_of_the_linears_is_left_out(build):
    builder = build(TINY_QWEN3)
    assert builder.alone("cutlass", (1, 4)) is None  # it has nothing for a CPU
    assert builder.alone("torch", (1, 4)) is not None
