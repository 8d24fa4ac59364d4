"""Linears that widen their weights, in the interpreter: decoding, shares, edges, errors."""

from dataclasses import replace

import pytest
import torch

from quantmux.capability.arch import Arch
from quantmux.capability.device import DeviceProfile
from quantmux.config import LinearConfig, QuantizeConfig
from quantmux.config.schemes import Scheme
from quantmux.errors import DtypeError, InputError, LayoutError, ShapeError
from quantmux.ops.linear.reference import linear_exact
from quantmux.ops.linear.spec import make_weights, make_x
from quantmux.ops.linear.tolerance import compare, linear_magnitude
from quantmux.ops.numerics import decode_e2m1
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.quantized import LinearWeights
from quantmux.ops.spec import Case
from quantmux_triton.linear import (
    fp8_w8a16,
    nvfp4_emulated,
    nvfp4_w4a16,
    weight_only_bound,
    weight_only_host,
)
from quantmux_triton.linear.weight_only_config import Tile

pytestmark = pytest.mark.interpreter

CPU = DeviceProfile(name="cpu", title="host", arch=Arch.parse("cpu"), is_present=True)
KERNELS = {
    "nvfp4_w4a16": nvfp4_w4a16.kernel,
    "fp8_w8a16": fp8_w8a16.kernel,
    "nvfp4_dynamic": nvfp4_emulated.kernel,
}


def layer(scheme, n, k, m, **changes):
    """Give config, canonical weights and a plain x."""
    config = LinearConfig.model_validate(
        {"in_features": k, "out_features": n, "scheme": scheme, "out_dtype": "fp32", **changes}
    )
    case = Case(config, m)
    return config, make_weights(case, "cpu", 3), make_x(case, "cpu", 3)


def bound(kernel, config, weights):
    return kernel.bind(config, kernel.prepare(weights, config, CPU), CPU)


def agree(y, x, weights, config):
    magnitude = linear_magnitude(x, weights, config)
    exact = linear_exact(x, weights, config)
    compare(y, exact, config=config, magnitude=magnitude).require("y")


def quantized(x, k, layout, padded_n=None):
    config = QuantizeConfig(operand="nvfp4", n=k, layout=layout, padded_n=padded_n)
    return quantize(x, config)


@pytest.fixture
def tile(monkeypatch):
    """Cut products up as told."""

    def use(**fields):
        chosen = Tile(**{"block_n": 64, "block_m": 16, "warps": 4, "stages": 1, **fields})
        monkeypatch.setattr(weight_only_host, "tile_for", lambda *_, **__: chosen)

    return use


@pytest.mark.parametrize("in_dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("joined", [False, True])
def test_every_code_times_every_scale_is_exact(tile, joined, in_dtype):
    tile(joined=joined)
    n, k = 127, 256
    config = LinearConfig(
        in_features=k, out_features=n, scheme="nvfp4_w4a16", in_dtype=in_dtype, out_dtype="fp32"
    )
    codes = (torch.arange(k) * 7 % 16).to(torch.uint8).repeat(n, 1)
    scales = torch.arange(n, dtype=torch.uint8).unsqueeze(1).repeat(1, k // 16)
    scales = scales.view(torch.float8_e4m3fn)
    weights = LinearWeights(codes[:, 0::2] | (codes[:, 1::2] << 4), scales, torch.ones(1))
    x = torch.eye(k, dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[in_dtype])
    y = bound(nvfp4_w4a16.kernel, config, weights)(x)
    want = decode_e2m1(codes) * scales.to(torch.float32).repeat_interleave(16, dim=1)
    assert torch.equal(y, want.T)


@pytest.mark.parametrize("scheme", KERNELS)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (33, 17), (130, 264), (64, 256), (70, 530)])
def test_prepared_weights_give_the_checkpoint_back(scheme, n, k):
    config, weights, _ = layer(scheme, n, k, 1, bias=True)
    prepared = KERNELS[scheme].prepare(weights, config, CPU)
    back = prepared.restore().named()
    assert back.keys() == weights.named().keys()
    for name, tensor in weights.named().items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name].view(torch.uint8), tensor.view(torch.uint8)), name


@pytest.mark.parametrize("scheme", KERNELS)
@pytest.mark.parametrize(
    ("whole", "shares"), [(0, 0), (0, 1), (0, 2), (0, 3), (0, 5), (0, 9), (0, 12), (1, 3), (2, 1)]
)
def test_any_number_of_shares_agrees_and_leaves_the_counters_at_0(
    tile, monkeypatch, scheme, whole, shares
):
    tile(shares=shares, whole=whole, joined=True)
    config, weights, x = layer(scheme, 150, 1000, 18, bias=True)
    if scheme == "nvfp4_dynamic":
        x = quantized(x, 1000, "row_major")
    given = []

    def workspace(device, floats, counters):
        given.append(torch.zeros(counters, dtype=torch.int32, device=device))
        return torch.full((floats,), torch.nan, device=device), given[-1]

    monkeypatch.setattr(weight_only_bound, "split_workspace", workspace)
    run = bound(KERNELS[scheme], config, weights)
    y = run(x)
    agree(y, x, weights, config)
    assert torch.equal(run(x), y)
    assert len(given) == (2 if shares else 0)
    assert all(not counters.any() for counters in given)


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("scheme", ["nvfp4_w4a16", "fp8_w8a16"])
@pytest.mark.parametrize(("n", "k", "m"), [(65, 17, 3), (64, 250, 33), (129, 520, 17)])
def test_tails_of_n_k_and_m_are_served(tile, scheme, joined, n, k, m):
    tile(joined=joined)
    config, weights, x = layer(scheme, n, k, m, bias=True)
    agree(bound(KERNELS[scheme], config, weights)(x), x, weights, config)


@pytest.mark.parametrize("weight", ["fp8_tensor", "fp8_channel", "fp8_block128"])
@pytest.mark.parametrize("shares", [0, 3])
def test_fp8_weights_have_one_scale_or_one_a_channel_or_a_block(tile, weight, shares):
    tile(joined=True, shares=shares)
    config, weights, x = layer(Scheme(weight=weight), 200, 600, 9)
    agree(bound(fp8_w8a16.kernel, config, weights)(x), x, weights, config)


def test_every_fp8_code_is_exact(tile):
    tile(joined=True)
    codes = torch.arange(256, dtype=torch.uint8)
    codes[(codes & 0x7F) == 0x7F] = 0
    weights = LinearWeights(codes.unsqueeze(0).view(torch.float8_e4m3fn), torch.ones(1, 1))
    config = LinearConfig(in_features=256, out_features=1, scheme="fp8_w8a16", out_dtype="fp32")
    y = bound(fp8_w8a16.kernel, config, weights)(torch.eye(256, dtype=torch.bfloat16))
    assert torch.equal(y, weights.data.to(torch.float32).T)


def test_nan_codes_of_fp8_weights_are_refused():
    config, weights, _ = layer("fp8_w8a16", 8, 32, 1)
    data = weights.data.view(torch.uint8).clone()
    data[3, 5] = 0xFF
    broken = replace(weights, data=data.view(torch.float8_e4m3fn))
    with pytest.raises(InputError, match="NaN codes") as caught:
        fp8_w8a16.kernel.prepare(broken, config, CPU)
    assert caught.value.code == "non_finite"


@pytest.mark.parametrize("m", [1, 9, 130])
def test_emulated_reads_every_scale_layout_and_padding_to_the_same_bits(m):
    config, weights, x = layer("nvfp4_dynamic", 40, 528, m)
    run = bound(nvfp4_emulated.kernel, config, weights)
    plain = quantized(x, 528, "row_major")
    y = run(plain)
    agree(y, plain, weights, config)
    for name in ("row_major", "swizzled_128x4", "swizzled_8x4"):
        assert torch.equal(run(quantized(x, 528, name)), y)
        assert torch.equal(run(quantized(x, 528, name, padded_n=592)), y)


def test_a_nan_in_one_token_spoils_no_other():
    config, weights, x = layer("nvfp4_dynamic", 24, 64, 5)
    x[2, 20] = torch.nan
    y = bound(nvfp4_emulated.kernel, config, weights)(quantized(x, 64, "swizzled_128x4"))
    assert y[2].isnan().all()
    assert y[[0, 1, 3, 4]].isfinite().all()


def test_rows_of_x_and_of_out_may_lie_apart():
    config, weights, x = layer("nvfp4_w4a16", 40, 64, 6)
    run = bound(nvfp4_w4a16.kernel, config, weights)
    wide = torch.full((6, 88), torch.nan, dtype=x.dtype)
    wide[:, :64] = x
    out = torch.full((6, 50), -1.0)
    assert torch.equal(run(wide[:, :64], out=out[:, 3:43]), run(x))
    assert (out[:, :3] == -1).all()
    assert (out[:, 43:] == -1).all()


def test_what_cannot_be_read_is_refused():
    config, weights, x = layer("nvfp4_w4a16", 40, 64, 6)
    run = bound(nvfp4_w4a16.kernel, config, weights)
    with pytest.raises(LayoutError, match="16 bytes"):
        run(x.T.contiguous().T)
    with pytest.raises(LayoutError, match="16 bytes"):
        run(torch.zeros(6, 65, dtype=x.dtype)[:, :64])
    with pytest.raises(ShapeError):
        run(x[:, :32])
    with pytest.raises(DtypeError):
        run(x.to(torch.float16))
    with pytest.raises(ShapeError):
        run(x, out=torch.empty(6, 41))
    config, weights, _ = layer("nvfp4_dynamic", 40, 64, 6)
    emulated = bound(nvfp4_emulated.kernel, config, weights)
    with pytest.raises(ShapeError):
        emulated(quantized(x[:, :32], 32, "row_major"))


def test_no_rows_launch_nothing(monkeypatch):
    config, weights, x = layer("fp8_w8a16", 24, 32, 3)
    run = bound(fp8_w8a16.kernel, config, weights)
    monkeypatch.setattr(weight_only_host.Launcher, "__call__", None)
    assert run(x[:0]).shape == (0, 24)
