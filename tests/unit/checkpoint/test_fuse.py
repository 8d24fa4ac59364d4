"""Fusing shards: what is lossless is to the bit, what is lossy is measured and said."""

import pytest
import torch

from quantmux.checkpoint import fuse
from quantmux.config import LinearConfig, scheme
from quantmux.errors import ConfigError
from quantmux.ops.linear.weights import check_weights, quantize_weight
from quantmux.ops.numerics import decode_e2m1, expand_blocks, unpack_fp4

STATIC = torch.tensor([0.5])


def shard(preset, n=128, k=64, *, gain=1.0, bias=False, static=None, seed=0):
    torch.manual_seed(seed)
    wanted = scheme(preset)
    scale = None
    if wanted.needs_static_activation_scale:
        scale = torch.tensor([static or 0.5])
    fp4 = wanted.weight.is_nvfp4
    weight = torch.randn(n, k) * gain
    config = LinearConfig(in_features=k, out_features=n, scheme=wanted, bias=bias)
    weights = quantize_weight(
        weight,
        wanted,
        bias=torch.randn(n) if bias else None,
        input_scale=None if fp4 else scale,
        input_global_scale=scale if fp4 else None,
    )
    return weight, (config, weights)


def values(config, w):
    """Dequantize [N, K] in fp64 from the canonical form."""
    operand = config.scheme.weight
    if operand.is_nvfp4:
        codes = decode_e2m1(unpack_fp4(w.data)).double()
        return codes * w.scales.double().repeat_interleave(16, 1) * w.global_scale.double()
    grid = w.scales.reshape(1, 1) if operand.block.kind == "tensor" else w.scales
    return w.data.double() * expand_blocks(grid, operand.block, config.n, config.k).double()


def stacked(pairs):
    return torch.cat([values(*pair) for pair in pairs])


ALL = [
    "fp8_tensor",
    "fp8_tensor_static",
    "fp8_channel_token",
    "fp8_block128",
    "fp8_w8a16",
    "fp8_block128_pow2",
    "int8_channel_token",
    "nvfp4",
    "nvfp4_w4a16",
]


@pytest.mark.parametrize("preset", ALL)
def test_equal_scales_fuse_without_loss(preset):
    pairs = [shard(preset, bias=True)[1] for _ in range(3)]
    fused = fuse(pairs)
    check_weights(fused.weights, fused.config)
    assert fused.config.scheme.name == preset
    assert (fused.config.n, fused.sizes, fused.lossy) == (384, (128, 128, 128), False)
    assert torch.equal(values(fused.config, fused.weights), stacked(pairs))
    assert torch.equal(fused.weights.bias, torch.cat([w.bias for _, w in pairs]))


@pytest.mark.parametrize(
    "preset",
    ["fp8_tensor", "fp8_tensor_static", "fp8_channel_token", "fp8_block128", "int8_channel_token"],
)
def test_differing_weight_scales_of_fp8_and_int8_lose_nothing(preset):
    pairs = [shard(preset, gain=g, seed=i)[1] for i, g in enumerate((1.0, 4.0, 1e-3))]
    fused = fuse(pairs)
    check_weights(fused.weights, fused.config)
    assert torch.equal(values(fused.config, fused.weights), stacked(pairs))
    assert not fused.lossy


def test_differing_tensor_scales_become_channel_scales():
    pairs = [shard("fp8_tensor_static", gain=g, n=n)[1] for g, n in ((1.0, 3), (2.0, 5))]
    fused = fuse(pairs)
    assert fused.config.scheme.weight.block.kind == "row"
    assert fused.config.scheme.activation == pairs[0][0].scheme.activation
    assert fused.weights.scales.shape == (8, 1)
    assert "per channel" in fused.notes[0]


def test_globals_powers_of_two_apart_lose_nothing():
    _, (config, small) = shard("nvfp4_w4a16")
    _, (_, large) = shard("nvfp4_w4a16", gain=4.0)
    assert float(large.global_scale / small.global_scale) == 4
    fused = fuse([(config, small), (config, large)])
    assert not fused.lossy
    assert "nothing lost" in fused.notes[0]
    assert torch.equal(
        values(fused.config, fused.weights),
        torch.cat([values(config, small), values(config, large)]),
    )


@pytest.mark.parametrize(
    ("ratio", "ideal", "ours"), [(1.25, 0.096, 0.0975), (2.0, 0.096, 0.0970), (4.0, 0.095, 0.0956)]
)
def test_nvfp4_globals_apart_cost_almost_nothing(ratio, ideal, ours):
    # three shards as they come, and an outlier in one: globals that are no power of two apart
    originals, pairs = [], []
    wanted = scheme("nvfp4_w4a16")
    config = LinearConfig(in_features=512, out_features=256, scheme=wanted)
    for i in range(3):
        torch.manual_seed(i)
        weight = torch.randn(256, 512) * 0.02
        if i == 0:
            weight[0, 0] = weight.abs().max() * ratio
        originals.append(weight)
        pairs.append((config, quantize_weight(weight, wanted)))
    reference = torch.cat(originals).double()

    def error(got):
        return float((got - reference).norm() / reference.norm())

    fused = fuse(pairs)
    before, after = error(stacked(pairs)), error(values(fused.config, fused.weights))
    assert fused.lossy
    assert before == pytest.approx(ideal, abs=0.0015)
    assert after == pytest.approx(ours, abs=0.0015)
    # the shortcut that keeps the block scales under the largest global is wrong by the ratio
    shortcut = torch.cat(
        [
            values(config, w.__class__(w.data, w.scales, fused.weights.global_scale))
            for _, w in pairs
        ]
    )
    assert error(shortcut) > 1.5 * after


def test_a_rounded_rescale_is_said_to_be_lossy():
    pairs = [shard("nvfp4_w4a16", gain=g)[1] for g in (1.0, 1.37)]
    fused = fuse(pairs)
    assert fused.lossy
    assert fused.notes[0].startswith("lossy: NVFP4 global scales differ by up to 1.37")
    assert torch.equal(fused.weights.global_scale, pairs[1][1].global_scale)


@pytest.mark.parametrize(
    ("preset", "role"), [("fp8_tensor_static", "input_scale"), ("nvfp4", "input_global_scale")]
)
def test_the_largest_activation_multiplier_serves_all(preset, role):
    pairs = [shard(preset, static=s)[1] for s in (0.25, 0.75, 0.5)]
    fused = fuse(pairs)
    assert getattr(fused.weights, role).tolist() == [0.75]
    assert any(role in note and note.startswith("lossy") for note in fused.notes)


def test_refuses_blocks_that_would_shift_and_takes_the_other_order():
    q_a, kv_a = shard("fp8_block128", 256)[1], shard("fp8_block128", 192, seed=1)[1]
    fused = fuse([q_a, kv_a])
    assert fused.weights.scales.shape == (4, 1)
    assert torch.equal(values(fused.config, fused.weights), stacked([q_a, kv_a]))
    with pytest.raises(ConfigError) as caught:
        fuse([kv_a, q_a])
    assert caught.value.code == "fuse_misaligned"
    assert "N % 128 == 0" in str(caught.value)
    assert "put it last: shard 1, shard 0" in caught.value.hint


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (shard("fp8_tensor", k=32)[1], "K"),
        (shard("fp8_channel_token")[1], "scheme"),
        (shard("fp8_tensor", bias=True)[1], "bias"),
    ],
)
def test_refuses_shards_that_do_not_go_together(other, what):
    with pytest.raises(ConfigError, match=f"differ in {what}") as caught:
        fuse([shard("fp8_tensor")[1], other])
    assert caught.value.code == "fuse_mismatch"


def test_refuses_nothing_and_takes_one():
    with pytest.raises(ConfigError):
        fuse([])
    _, pair = shard("nvfp4")
    alone = fuse([pair])
    assert alone.config == pair[0]
    assert alone.notes == ()
