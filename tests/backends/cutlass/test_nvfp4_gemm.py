"""The NVFP4 linear for Blackwell: weights, choice of tiles, join with producers, and its call.

None of it needs a GPU: the call goes through a library whose device is the host (conftest.py).
"""

import pytest
import torch

import quantmux as qm
from quantmux.capability.profiles import PROFILES
from quantmux.config import Layout, LinearConfig, QuantizeConfig, scheme
from quantmux.errors import LayoutError, ShapeError
from quantmux.ops.layouts import place_scales
from quantmux.ops.linear.reference import linear
from quantmux.ops.linear.weights import quantize_weight
from quantmux.ops.quantize.reference import quantize
from quantmux_cutlass.linear.nvfp4 import kernel
from quantmux_cutlass.linear.nvfp4_config import choose, pays_in_pairs
from quantmux_cutlass.linear.nvfp4_weights import SWIZZLED, swizzled_weights
from quantmux_cutlass.linear.specs_nvfp4 import specs
from quantmux_cutlass.linear.units_nvfp4 import unit, units

from .conftest import HOST

SHAPES = [(7, 16), (130, 48), (128, 64), (257, 1000), (96, 1024), (1, 1040)]
BLACKWELL = ("b200", "b300", "rtx_pro_6000", "dgx_spark")


def asked(n, k, **more):
    return LinearConfig(scheme="nvfp4_dynamic", out_features=n, in_features=k, **more)


def made(n, k, *, seed=0, bias=False):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, k, generator=generator) * 0.3
    extra = torch.randn(n, generator=generator) if bias else None
    return quantize_weight(weight, scheme("nvfp4_dynamic"), bias=extra)


def as_bytes(tensor):
    return tensor.contiguous().view(torch.uint8)


def quantized(config, m, padded_n, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(m, config.k, generator=generator).to(torch.bfloat16)
    layout = Layout(scales="swizzled_128x4", padded_n=padded_n)
    operand = config.scheme.activation
    return quantize(x, QuantizeConfig(operand=operand, n=config.k, layout=layout))


@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_prepared_scales_lie_where_the_layouts_formula_says(n, k):
    weights = made(n, k)
    prepared = swizzled_weights(weights, asked(n, k), HOST)
    flat, columns = as_bytes(prepared.tensors["scales"]).flatten(), -(-k // 16)
    assert prepared.weight_layout == SWIZZLED == specs()[0].capability.weight_layout
    tiles = prepared.tensors["scales"].shape[1] // 4
    row, column = torch.meshgrid(torch.arange(n), torch.arange(columns), indexing="ij")
    at = ((row >> 7) * tiles + (column >> 2)) * 512
    at += (row & 31) * 16 + ((row >> 5) & 3) * 4 + (column & 3)
    assert torch.equal(flat[at], as_bytes(weights.scales))
    rest = torch.ones(flat.numel(), dtype=torch.bool)
    rest[at.flatten()] = False
    assert not flat[rest].any()
    assert tuple(prepared.tensors["scales"].shape) == (-(-n // 128) * 128, tiles * 4)


@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_rows_of_codes_are_whole_16_bytes_and_zero_beyond_k(n, k):
    weights = made(n, k)
    data = swizzled_weights(weights, asked(n, k), HOST).tensors["data"]
    assert data.is_contiguous()
    assert data.data_ptr() % 16 == data.stride(0) % 16 == 0
    assert torch.equal(data[:, : weights.data.shape[1]], weights.data)
    assert not data[:, weights.data.shape[1] :].any()


@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_preparing_loses_nothing_and_changes_nothing(n, k):
    weights, config = made(n, k, bias=True), asked(n, k, bias=True)
    before = {name: tensor.clone() for name, tensor in weights.named().items()}
    first, second = (swizzled_weights(weights, config, HOST) for _ in range(2))
    back = first.restore().named()
    assert back.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(as_bytes(back[name]), as_bytes(tensor)), name
        assert back[name].shape == tensor.shape
        assert torch.equal(as_bytes(weights.named()[name]), as_bytes(tensor)), name
        assert torch.equal(as_bytes(first.tensors[name]), as_bytes(second.tensors[name])), name


def test_codes_that_need_no_padding_are_the_checkpoints_own():
    weights = made(96, 1024)
    prepared = swizzled_weights(weights, asked(96, 1024), HOST)
    assert prepared.tensors["data"] is weights.data
    assert prepared.tensors["global_scale"] is weights.global_scale
    again = swizzled_weights(prepared.restore(), asked(96, 1024), HOST)
    assert again.tensors["data"] is weights.data


@pytest.mark.parametrize("device", BLACKWELL)
@pytest.mark.parametrize("name", ["nvfp4", "nvfp4_dynamic"])
@pytest.mark.parametrize("k", [7152, 7168])
def test_a_producer_writes_what_the_gemm_reads_with_nothing_between(device, name, k):
    config = LinearConfig(scheme=name, out_features=4096, in_features=k)
    found = qm.select(config, device=device)
    assert len(found.ranges) == 1
    pipeline = found.ranges[0].pipeline
    assert pipeline.ids[-1] == "cutlass/linear_nvfp4"
    assert len(pipeline.ids) == 2, "a relayout stands between"
    assert found.weight_layouts == (SWIZZLED,)
    produced = pipeline.steps[0].config
    assert produced.layout == Layout(scales="swizzled_128x4", padded_n=-(-k // 32) * 32)


def test_hopper_is_told_that_it_has_no_such_units():
    found = qm.select(asked(4096, 7168), device="h200")
    assert [r.code for r in found.rejected["cutlass/linear_nvfp4"]] == ["arch"]


def test_it_is_experimental_and_offers_no_exact_sums():
    capability = specs()[0].capability
    assert capability.is_experimental
    assert capability.accumulations == ("fast",)
    exact = qm.select(asked(512, 512).replace(scheme="nvfp4+exact"), device="b200")
    assert "cutlass/linear_nvfp4" in exact.rejected


@pytest.mark.parametrize("device", BLACKWELL)
def test_every_m_has_a_library_of_the_devices_family(device):
    profile, config = PROFILES[device], asked(4096, 7168)
    family = f"{profile.arch.sm // 10}0f"
    for m in (1, 16, 255, 256, 4096, 100_000):
        found = choose(config, profile, m)
        assert found.unit.targets == (family,)
        assert found.unit in kernel.units(config, profile)


def test_multiprocessors_work_in_pairs_only_where_all_of_them_have_a_tile():
    assert not pays_in_pairs(256, 128 * 73, 148)
    assert pays_in_pairs(256, 128 * 74, 148)
    assert pays_in_pairs(257, 128 * 37, 148)
    config, b200 = asked(4096, 7168), PROFILES["b200"]
    assert choose(config, b200, 16).unit is unit("sm100")
    assert choose(config, b200, 4096).unit is unit("sm100_pair")


def test_units_have_names_of_their_own_and_tiles_of_the_source():
    assert len({u.name for u in units()}) == len(units()) == 3
    assert all(u.source in specs()[0].sources for u in units())
    assert {u.interface for u in units()} == {"linear_global"}


@pytest.mark.usefixtures("host_libraries")
@pytest.mark.parametrize("padded_n", [0, 2048])
@pytest.mark.parametrize(("n", "k"), [(40, 1000), (13, 96), (24, 1040)])
def test_a_call_gives_the_linear_of_the_definition(n, k, padded_n):
    config, weights = asked(n, k, bias=True), made(n, k, bias=True)
    bound = kernel.bind(config, kernel.prepare(weights, config, HOST), HOST)
    for m in (1, 5):
        q = quantized(config, m, padded_n or -(-k // 32) * 32)
        y = bound(q)
        assert tuple(y.shape) == (m, n)
        assert y.stride(0) == -(-n // 8) * 8
        exact = linear(q, weights, config).to(torch.float32)
        assert torch.allclose(y.to(torch.float32), exact, rtol=2**-7, atol=2**-7)


@pytest.mark.usefixtures("host_libraries")
def test_an_x_whose_rows_are_no_whole_16_bytes_is_refused():
    config = asked(40, 1000)
    bound = kernel.bind(config, kernel.prepare(made(40, 1000), config, HOST), HOST)
    with pytest.raises(LayoutError, match="16 bytes"):
        bound(quantized(config, 3, 1008))


@pytest.mark.usefixtures("host_libraries")
def test_an_x_of_another_width_is_refused():
    config = asked(40, 1000)
    bound = kernel.bind(config, kernel.prepare(made(40, 1000), config, HOST), HOST)
    with pytest.raises(ShapeError):
        bound(quantized(asked(40, 1024), 3, 1024))


def test_scales_of_the_prepared_weights_are_as_wide_as_the_library_asks():
    """`qm_plan` refuses another width: what `check_problem` calls ``scale_columns(w_row)``."""
    for n, k in SHAPES:
        prepared = swizzled_weights(made(n, k), asked(n, k), HOST)
        w_row = prepared.tensors["data"].shape[1] * 2
        assert prepared.tensors["scales"].stride(0) == -(-w_row // 64) * 4
        operand = scheme("nvfp4_dynamic").weight
        layout = Layout(scales="swizzled_128x4", padded_n=w_row)
        same = place_scales(made(n, k).scales, operand, layout, n)
        assert torch.equal(as_bytes(same), as_bytes(prepared.tensors["scales"]))
