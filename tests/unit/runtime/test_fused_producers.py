"""rmsnorm_quantize and rope_quantize from the front door: served, refused, checked, compiled."""

import math

import pytest
import torch

import quantmux as qm
from quantmux.capability.detect import HERE_CPU
from quantmux.errors import (
    ConfigError,
    DtypeError,
    ForcedKernelError,
    InputError,
    LayoutError,
    ShapeError,
)
from quantmux.ops.rmsnorm_quantize.reference import rmsnorm_quantize as norm_reference
from quantmux.ops.rope import make_cos_sin_cache
from quantmux.ops.rope_quantize.reference import rope_quantize as rope_reference
from quantmux.runtime.events import reset_stats, stats
from quantmux.runtime.inputs import check_call
from quantmux.runtime.self_check_case import small_cases

NORM = qm.RmsNormQuantizeConfig(operand="fp8_token", n=32)
STATIC = qm.RmsNormQuantizeConfig(operand="fp8_tensor_static", n=32)
ROPE = qm.RopeQuantizeConfig(heads=2, head_dim=48, rope_dim=32)
KNOWN = ROPE.replace(static_scale=0.02)
CACHE = make_cos_sin_cache(8, 32)
SCALE = torch.tensor([0.02])


@pytest.fixture(autouse=True)
def _no_news():
    reset_stats()
    yield
    assert stats()["events"] == []
    reset_stats()


def row(m=3, seed=0):
    return torch.randn(m, 32, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)


def heads(t=3, seed=0):
    x = torch.randn(t, 2, 48, generator=torch.Generator().manual_seed(seed))
    return x.to(torch.bfloat16), torch.arange(t)


def same(a, b):
    return all(
        torch.equal(x.view(torch.uint8), y.view(torch.uint8))
        for x, y in zip(a.tensors(), b.tensors(), strict=True)
    )


def test_a_norm_is_served_by_name_and_by_force_with_and_without_out():
    x, weight = row(), row(1)[0]
    want = norm_reference(x, weight, NORM)
    assert same(qm.rmsnorm_quantize(x, weight, NORM), want)
    out = norm_reference(x + 1, weight, NORM)
    assert qm.rmsnorm_quantize(x, weight, NORM, backend="torch", out=out) is out
    assert same(out, want)
    given = qm.rmsnorm_quantize(x, weight, STATIC, scale=SCALE)
    assert same(given, norm_reference(x, weight, STATIC, scale=SCALE))
    with pytest.raises(ForcedKernelError):
        qm.rmsnorm_quantize(x, weight, NORM, backend="cutlass")


def test_heads_are_served_with_the_scale_from_either_place():
    x, positions = heads()
    want = rope_reference(x, positions, CACHE, ROPE, scale=SCALE)
    assert same(qm.rope_quantize(x, positions, CACHE, ROPE, scale=SCALE), want)
    assert same(qm.rope_quantize(x, positions, CACHE, KNOWN), want)
    out = rope_reference(x + 1, positions, CACHE, ROPE, scale=SCALE * 2)
    assert qm.rope_quantize(x, positions, CACHE, KNOWN, out=out) is out
    assert same(out, want)
    assert qm.rope_quantize(x[:0], positions[:0], CACHE, KNOWN).logical_shape == (0, 2, 48)


def test_queries_and_keys_of_one_fused_row_need_no_copy():
    fused = torch.randn(3, 4 * 48).to(torch.bfloat16)
    queries, keys = fused[:, :96].view(3, 2, 48), fused[:, 96:144].view(3, 1, 48)
    positions = torch.tensor([5, 0, 7])
    for part, config in ((queries, KNOWN), (keys, KNOWN.replace(heads=1))):
        got = qm.rope_quantize(part, positions, CACHE, config)
        assert same(got, rope_reference(part.contiguous(), positions, CACHE, config))


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"weight": None}, InputError, "weight needs to be a tensor"),
        ({"weight": torch.ones(31, dtype=torch.bfloat16)}, ShapeError, "weight"),
        ({"weight": torch.ones(32)}, DtypeError, "weight needs bf16"),
        ({"weight": torch.ones(32, dtype=torch.bfloat16, device="meta")}, InputError, "meta"),
        ({"scale": SCALE}, InputError, "computes its scales"),
        ({"out": row()}, InputError, "QuantizedTensor"),
        ({"out": norm_reference(row(), row(1)[0], STATIC, scale=SCALE)}, LayoutError, "operand"),
    ],
)
def test_a_bad_call_of_a_norm_is_typed_and_the_next_is_served(given, error, text):
    x, weight = row(), row(1)[0]
    weight = given.pop("weight") if "weight" in given else weight
    with pytest.raises(error, match=text):
        qm.rmsnorm_quantize(x, weight, NORM, **given)
    assert qm.rmsnorm_quantize(x, row(1)[0], NORM).m == 3


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"scale": None}, InputError, "needs scale="),
        ({"scale": 0.02}, InputError, "scale needs to be a tensor, found float"),
        ({"scale": torch.ones(2)}, ShapeError, "one element"),
        ({"config": KNOWN}, InputError, "static_scale = 0.02"),
        ({"positions": torch.arange(6, 9)}, InputError, "outside cos_sin_cache"),
        ({"positions": torch.arange(3).int()}, DtypeError, "int64"),
        ({"cache": CACHE.half()}, DtypeError, "cos_sin_cache needs fp32"),
        ({"x": heads()[0][:, :1]}, ShapeError, "x has the wrong shape"),
        ({"out": heads()[0]}, InputError, "QuantizedTensor"),
    ],
)
def test_a_bad_call_of_a_rotation_is_typed_and_the_next_is_served(given, error, text):
    x, positions = heads()
    call = {"x": x, "positions": positions, "cache": CACHE, "config": ROPE, "scale": SCALE}

    def run(x, positions, cache, config, **more):
        return qm.rope_quantize(x, positions, cache, config, **more)

    with pytest.raises(error, match=text):
        run(**(call | given))
    assert run(**call).logical_shape == (3, 2, 48)


def test_what_is_wrong_with_arguments_is_found_before_a_kernel_is_blamed():
    x, weight = row(), row(1)[0]
    check_call(NORM, HERE_CPU, (x, weight), {})
    check_call(NORM, HERE_CPU, (x,), {"weight": weight})
    for args, given, text in (
        ((x,), {}, "weight needs to be a tensor"),
        ((x, weight, SCALE), {}, "takes 2 arguments"),
        ((x, weight), {"eps": 1e-6}, 'no argument "eps"'),
    ):
        with pytest.raises(InputError, match=text):
            check_call(NORM, HERE_CPU, args, given)
    o, positions = heads()
    check_call(ROPE, HERE_CPU, (o, positions, CACHE), {"scale": SCALE})
    check_call(KNOWN, HERE_CPU, (o, positions), {"cos_sin_cache": CACHE})
    for number in (0.0, math.nan):
        with pytest.raises(InputError, match="finite and above 0"):
            check_call(ROPE, HERE_CPU, (o, positions, CACHE), {"scale": torch.tensor([number])})


def test_the_config_of_another_op_is_refused():
    x, weight = row(), row(1)[0]
    with pytest.raises(ConfigError, match="RmsNormQuantizeConfig is asked for"):
        qm.rmsnorm_quantize(x, weight, qm.QuantizeConfig(operand="fp8_token", n=32))
    with pytest.raises(ConfigError, match="RopeQuantizeConfig is asked for"):
        qm.rope_quantize(*heads(), CACHE, NORM)


def test_a_self_check_keeps_what_decides_which_code_runs():
    registry = qm.registry.default.default_registry()
    wide = qm.RopeQuantizeConfig(
        heads=128, head_dim=192, rope_dim=64, rope_at="last", interleaved=True, static_scale=0.5
    )
    first, second = small_cases(registry.get("torch/rope_quantize"), wide, HERE_CPU, None)
    assert first.config == second.config == wide.replace(heads=3)
    assert first.m != second.m
    norm = qm.RmsNormQuantizeConfig(
        operand="fp8_group128", n=7168, layout="col_major", fp32_weight=True, norm_eps=1e-5
    )
    for case in small_cases(registry.get("torch/rmsnorm_quantize"), norm, HERE_CPU, None):
        assert case.config.n < 512
        assert case.config.norm_eps == 1e-5
        assert case.config.fp32_weight


def test_both_are_passed_by_under_torch_compile():
    x, weight = row(), row(1)[0]
    o, positions = heads()

    def both(x, o):
        return (
            qm.rmsnorm_quantize(x * 2, weight, NORM),
            qm.rope_quantize(o * 2, positions, CACHE, KNOWN),
        )

    for got, want in zip(torch.compile(both, backend="eager")(x, o), both(x, o), strict=True):
        assert same(got, want)
