"""The FP8 products for few tokens, in the interpreter: cuts of a GPU, edges, errors."""

import pytest
import torch

from quantmux.capability.arch import Arch
from quantmux.capability.device import DeviceProfile
from quantmux.config import LinearConfig
from quantmux.dispatch.join import required_input
from quantmux.errors import DtypeError, InputError, LayoutError, ShapeError
from quantmux.ops.linear.reference import linear_exact
from quantmux.ops.linear.spec import make_weights, make_x
from quantmux.ops.linear.tolerance import compare, linear_magnitude
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.spec import Case
from quantmux_triton.linear import fp8_small_m_host, fp8_small_m_variant
from quantmux_triton.linear.fp8_small_m import kernel
from quantmux_triton.linear.fp8_small_m_config import Cut

pytestmark = pytest.mark.interpreter

CPU = DeviceProfile(name="cpu", title="host", arch=Arch.parse("cpu"), is_present=True)

CUTS = (
    Cut(64, 16, 128, 4, 3, splits=1),
    Cut(64, 16, 128, 4, 3, splits=3),
    Cut(64, 32, 128, 4, 3, splits=5),
    Cut(128, 64, 128, 8, 3, splits=2),
    Cut(128, 16, 256, 8, 3, splits=3),
    Cut(64, 16, 512, 4, 2, splits=2),
)


def layer(scheme, n, k, m, *, scales=None, **changes):
    """Give config, canonical weights and a quantized x."""
    config = LinearConfig.model_validate(
        {"in_features": k, "out_features": n, "scheme": scheme, "out_dtype": "fp32", **changes}
    )
    case = Case(config, m)
    x = make_x(case, "cpu", 3)
    operand = config.scheme.activation
    name = scales or ("scalar" if operand.block.kind == "tensor" else "row_major")
    source = required_input(operand, k, name, 1, 1, config.in_dtype)
    return config, make_weights(case, "cpu", 3), quantize(x, source)


def bound(config, weights):
    return kernel.bind(config, kernel.prepare(weights, config, CPU), CPU)


def agree(y, q, weights, config):
    found = compare(
        y,
        linear_exact(q, weights, config),
        config=config,
        magnitude=linear_magnitude(q, weights, config),
    )
    found.require("y")


def cut_to(monkeypatch, cut):
    """Use one cut for everything."""
    monkeypatch.setattr(fp8_small_m_variant, "cut_for", lambda *_args, **_shape: cut)


@pytest.mark.parametrize("scheme", ["fp8_tensor", "fp8_channel_token", "fp8_block128"])
@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_every_cut_gives_the_definitions_numbers(monkeypatch, cut, scheme):
    cut_to(monkeypatch, cut)
    config, weights, q = layer(scheme, 200, 1360, 19, bias=True)
    agree(bound(config, weights)(q), q, weights, config)


@pytest.mark.parametrize("cut", [c for c in CUTS if c.block_k == 128], ids=str)
def test_exact_sums_promote_and_agree(monkeypatch, cut):
    cut_to(monkeypatch, cut)
    config, weights, q = layer("fp8_channel_token+exact", 130, 2048, 5)
    agree(bound(config, weights)(q), q, weights, config)


@pytest.mark.parametrize("scales", ["row_major", "col_major", "col_major_aligned4"])
def test_scales_of_x_are_read_in_any_order(monkeypatch, scales):
    cut_to(monkeypatch, CUTS[1])
    config, weights, q = layer("fp8_block128", 144, 640, 7, scales=scales)
    agree(bound(config, weights)(q), q, weights, config)


def test_more_tokens_than_the_largest_tile_are_more_tiles(monkeypatch):
    cut_to(monkeypatch, Cut(64, 64, 128, 4, 3, splits=2))
    config, weights, q = layer("fp8_channel_token", 70, 256, 150)
    agree(bound(config, weights)(q), q, weights, config)


def test_a_sum_of_splits_leaves_nothing_behind(monkeypatch):
    """Whatever a workspace held before, and whichever call uses it, the bits are the same."""
    cut_to(monkeypatch, CUTS[2])
    kept = []

    def workspace(device, floats, counters):
        del device
        if not kept:
            kept.append(torch.full((floats,), torch.nan))
            kept.append(torch.zeros(counters, dtype=torch.int32))
        return kept

    monkeypatch.setattr(fp8_small_m_host, "split_workspace", workspace)
    config, weights, q = layer("fp8_block128", 200, 1360, 19)
    run = bound(config, weights)
    first = run(q)
    assert int(kept[1].abs().max()) == 0
    assert torch.equal(run(q), first)
    agree(first, q, weights, config)


def test_rows_of_out_may_lie_apart_and_what_is_between_stays():
    config, weights, q = layer("fp8_channel_token", 72, 256, 9, out_dtype="bf16")
    run = bound(config, weights)
    whole = torch.full((9, 80), 7.0, dtype=torch.bfloat16)
    y = run(q, out=whole[:, :72])
    assert y.data_ptr() == whole.data_ptr()
    assert torch.equal(y, run(q))
    assert bool((whole[:, 72:] == 7.0).all())


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: torch.empty(9, 71), ShapeError),
        (lambda: torch.empty(9, 72, dtype=torch.bfloat16), DtypeError),
        (lambda: torch.empty(9, 72, device="meta"), InputError),
        (lambda: torch.empty(72, 9).T, LayoutError),
        (lambda: torch.empty(1, 72).expand(9, 72), LayoutError),
    ],
)
def test_an_out_that_does_not_fit_is_refused(make, error):
    config, weights, q = layer("fp8_channel_token", 72, 256, 9)
    with pytest.raises(error):
        bound(config, weights)(q, out=make())


def test_weights_with_gaps_are_refused():
    config, weights, _ = layer("fp8_channel_token", 72, 256, 9)
    prepared = kernel.prepare(weights, config, CPU)
    prepared.tensors["data"] = torch.empty(72, 512, dtype=torch.float8_e4m3fn)[:, :256]
    with pytest.raises(LayoutError, match="without gaps"):
        kernel.bind(config, prepared, CPU)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_bias_of_any_dtype_takes_the_variant_that_was_warmed(dtype):
    config, weights, q = layer("fp8_channel_token", 72, 256, 9, bias=True)
    weights = type(weights)(**{**weights.named(), "bias": weights.bias.to(dtype)})
    kernel.warmup(config, [9])
    before = kernel.compiled_variants()
    agree(bound(config, weights)(q), q, weights, config)
    assert kernel.compiled_variants() == before


def test_no_rows_launch_nothing(monkeypatch):
    config, weights, q = layer("fp8_channel_token", 72, 256, 0)
    monkeypatch.setattr(fp8_small_m_host, "plan_for", None)
    assert bound(config, weights)(q).shape == (0, 72)
