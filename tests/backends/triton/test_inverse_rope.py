"""Inverse RoPE + quantization in the interpreter: what the conformance suite leaves out."""

import pytest
import torch

from quantmux.capability.profiles import profile
from quantmux.config import InverseRopeQuantizeConfig, QuantizeConfig
from quantmux.errors import ConfigError, DtypeError, InputError, LayoutError, ShapeError
from quantmux.ops.inverse_rope_quantize.reference import inverse_rope_quantize
from quantmux.ops.inverse_rope_quantize.spec import empty_grouped, make_cos_sin_cache
from quantmux.ops.quantize.compare import compare_quantized
from quantmux_triton.inverse_rope_quantize import tokens

pytestmark = pytest.mark.interpreter

CPU = profile("cpu")
LAYOUTS = ("col_major_aligned4", "packed_pow2")
CACHE = make_cos_sin_cache(64, 64)


def _config(heads=4, head_dim=512, groups=2, **fields):
    shape = {"heads": heads, "head_dim": head_dim, "rope_dim": 64, "groups": groups}
    return InverseRopeQuantizeConfig.model_validate(shape | fields)


def _inputs(config, t):
    generator = torch.Generator().manual_seed(t)
    o = torch.randn(t, config.heads, config.head_dim, generator=generator).bfloat16()
    return o, torch.randint(0, 64, (t,), generator=generator)


def _dirty(config, t):
    out = empty_grouped(config, t, "cpu")
    for part in (out.data, out.scales):
        size = part.untyped_storage().nbytes()
        torch.empty(0, dtype=torch.uint8).set_(part.untyped_storage(), 0, (size,)).fill_(0xA5)
    return out


def _agrees(config, o, positions, cache=CACHE):
    out = _dirty(config, o.shape[0])
    got = tokens.kernel.bind(config, CPU)(o, positions, cache, out=out)
    want = inverse_rope_quantize(o, positions, cache, config)
    compare_quantized(got, want).require(str(config))
    return got


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("t", [1, 2, 3, 4, 5, 33])
def test_heads_of_deepseek_v4_are_bit_equal_over_dirty_memory(layout, t):
    config = _config(layout=layout)
    _agrees(config, *_inputs(config, t))


@pytest.mark.parametrize("heads", [1, 3, 6])
def test_words_that_hold_groups_of_several_heads(heads):
    # three groups of 32 a head: words begin inside of heads, and the last one is not full
    for groups in {1, heads}:
        fields = {"head_dim": 96, "layout": "packed_pow2", "groups": groups}
        config = _config(heads=heads, **fields, operand=_groups_of(32))
        _agrees(config, *_inputs(config, 5))


def test_a_negative_zero_outside_of_the_rotated_columns_stays_one():
    config = _config()
    o, positions = _inputs(config, 2)
    o[:, :, ::2] = -0.0
    codes = _agrees(config, o, positions).data.view(torch.uint8)
    assert (codes.reshape(2, 4, 512)[:, :, :448:2] == 0x80).all()


def test_infinity_beside_the_rotated_columns_spoils_its_group_alone():
    config = _config()
    o, positions = _inputs(config, 2)
    o[0, 1, 400] = torch.inf
    scales = _agrees(config, o, positions).scales.reshape(2, 16)
    assert torch.equal(scales.isnan().nonzero(), torch.tensor([[0, 7]]))


def test_a_position_outside_of_the_cache_makes_its_rotated_groups_nan_and_nothing_else():
    config = _config()
    o, positions = _inputs(config, 6)
    good = _agrees(config, o, positions)
    positions[1], positions[4] = -1, 64
    got = tokens.kernel.bind(config, CPU)(o, positions, CACHE)
    bad = got.scales.isnan().reshape(6, 4, 4)
    assert bad[[1, 4], :, 3].all()
    bad[[1, 4], :, 3] = False
    assert not bad.any()
    rest = [0, 2, 3, 5]
    assert torch.equal(got.scales[rest], good.scales[rest])
    assert torch.equal(got.data.view(torch.uint8)[rest], good.data.view(torch.uint8)[rest])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_o_positions_and_cache_may_have_any_strides(layout):
    config = _config(layout=layout)
    o, positions = _inputs(config, 5)
    by_head = torch.empty(4, 5, 512, dtype=o.dtype).transpose(0, 1).copy_(o)
    off = torch.empty(5, 4, 520, dtype=o.dtype)[..., 3:515].copy_(o)
    by_column = torch.empty(512, 5, 4, dtype=o.dtype).movedim(0, 2).copy_(o)
    wide = torch.empty(64, 65)[:, 1:].copy_(CACHE)
    turned = torch.empty(64, 64).T.copy_(CACHE)
    for given in (by_head, off, by_column):
        for cache in (CACHE, wide, turned):
            _agrees(config, given, positions.repeat_interleave(3)[::3], cache)


def test_no_token_count_makes_a_variant():
    config = _config(heads=2, head_dim=128, groups=1)
    run = tokens.kernel.bind(config, CPU)
    run(*_inputs(config, 1), CACHE)
    before = tokens.kernel.compiled_variants()
    for t in (2, 7, 13, 16, 17, 33, 48, 100, 128):
        run(*_inputs(config, t), CACHE)
    assert tokens.kernel.compiled_variants() == before


def test_no_token_is_no_launch_but_a_whole_result():
    config = _config()
    got = tokens.kernel.bind(config, CPU)(*_inputs(config, 0), CACHE)
    got.check()
    assert got.logical_shape == (0, 2, 1024)


def test_what_does_not_fit_is_refused_by_name():
    config = _config()
    run = tokens.kernel.bind(config, CPU)
    o, positions = _inputs(config, 3)
    with pytest.raises(ShapeError):
        run(o[:, :3], positions, CACHE)
    with pytest.raises(ShapeError):
        run(o, positions[:2], CACHE)
    with pytest.raises(ShapeError):
        run(o, positions, CACHE[:, :32])
    with pytest.raises(DtypeError):
        run(o.float(), positions, CACHE)
    with pytest.raises(DtypeError):
        run(o, positions.int(), CACHE)
    with pytest.raises(DtypeError):
        run(o, positions, CACHE.double())
    with pytest.raises(InputError):
        run(o, positions.to("meta"), CACHE)
    with pytest.raises(LayoutError):
        run(o, positions, CACHE, out=_dirty(_config(layout="packed_pow2"), 3))
    with pytest.raises(ConfigError):
        tokens.kernel.bind(QuantizeConfig(operand="fp8_group128", n=512), CPU)


def _groups_of(cols):
    from quantmux.config import operand
    from quantmux.config.operands import Block

    return operand("fp8_group64_pow2").replace(block=Block(rows=1, cols=cols))
