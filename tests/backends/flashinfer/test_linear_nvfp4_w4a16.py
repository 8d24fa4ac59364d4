"""bf16 by NVFP4 weights through a strict stand-in of ``mm_bf16_fp4``, and the real preparation."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests.backends.flashinfer.fp4_fake import FakeLibrary

from quantmux import LinearConfig
from quantmux.capability.profiles import CPU
from quantmux.errors import BuildError, LayoutError
from quantmux.ops.agreement import agreement
from quantmux.ops.linear.spec import empty_output, make_inputs
from quantmux.ops.spec import Call, Case
from quantmux_flashinfer.library import functions
from quantmux_flashinfer.linear import nvfp4_entries as entries
from quantmux_flashinfer.linear import nvfp4_w4a16, specs_nvfp4, specs_nvfp4_w4a16

if TYPE_CHECKING:
    from types import ModuleType

    from quantmux.registry.kernel_spec import KernelSpec

OFFERS = {o.spec.id.partition("w4a16_")[2]: o for o in specs_nvfp4_w4a16.offers()}
SPECS = {stem: offer.spec for stem, offer in OFFERS.items()}
OPAQUE = tuple(stem for stem in SPECS if stem != "cute_dsl_native")
SHAPES = ((128, 256), (24, 128), (130, 192), (1, 64), (200, 320), (64, 48), (72, 16))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    library = FakeLibrary()
    monkeypatch.setattr(functions, "function", library.function)
    return library


def served_shapes(spec: KernelSpec) -> list[tuple[int, int]]:
    c = spec.capability
    return [(n, k) for n, k in SHAPES if n % c.align_n == 0 and k % c.align_k == 0]


def layer(stem: str, n: int, k: int, m: int, **changes: Any) -> tuple[Any, ...]:
    """Give config, x, weights, kernel and the bound function."""
    config = LinearConfig(in_features=k, out_features=n, scheme="nvfp4_w4a16", **changes)
    x, weights = make_inputs(Case(config, m, "normal"), "cpu", 5).args
    kernel = getattr(nvfp4_w4a16, stem)
    prepared = kernel.prepare(weights, config, CPU)
    return config, x, weights, prepared, kernel.bind(config, prepared, CPU)


def require_agreement(config: LinearConfig, x: Any, weights: Any, y: torch.Tensor) -> None:
    found = agreement(config, Call((x, weights)), y)
    assert found.ok, found.reason


@pytest.mark.parametrize("stem", SPECS)
def test_every_kernel_agrees_with_the_definition_in_every_format(stem, fake):
    for n, k in served_shapes(SPECS[stem]):
        for out_dtype in SPECS[stem].capability.out_dtypes:
            config, x, weights, _, run = layer(stem, n, k, 7, out_dtype=out_dtype)
            require_agreement(config, x, weights, run(x))
    assert fake.calls


@pytest.mark.parametrize("stem", SPECS)
def test_no_rows_call_nothing(stem, fake):
    _, x, _, _, run = layer(stem, 64, 64, 0)
    fake.calls.clear()
    assert run(x).shape == (0, 64)
    assert not fake.calls


@pytest.mark.parametrize("stem", SPECS)
def test_out_is_written_in_place_and_refused_where_it_would_be_misread(stem, fake):
    multiple = SPECS[stem].capability.output_row_multiple
    config, x, weights, _, run = layer(stem, 130, 192, 5)
    out = empty_output(5, 130, torch.bfloat16, "cpu", row_multiple=multiple)
    assert run(x, out=out) is out
    require_agreement(config, x, weights, out)
    assert run(x).stride() == out.stride()
    fake.calls.clear()
    with pytest.raises(LayoutError):
        run(x, out=torch.empty(5, 130, dtype=torch.bfloat16))
    assert not fake.calls


def test_an_x_whose_elements_lie_apart_is_copied_and_left_alone(fake):
    config, x, weights, _, run = layer("cudnn", 64, 64, 5)
    wide = torch.full((5, 88), torch.nan, dtype=torch.bfloat16)
    wide[:, :64] = x
    before = wide.clone()
    require_agreement(config, x, weights, run(wide[:, :64]))
    require_agreement(config, x, weights, run(x.T.contiguous().T))
    assert torch.equal(wide.view(torch.uint8), before.view(torch.uint8))
    fake.calls.clear()
    storage = torch.empty(x.numel() + 16, dtype=torch.bfloat16)
    begin = (-storage.data_ptr() % 16) // 2 + 1
    with pytest.raises(LayoutError, match="16 bytes"):
        run(storage[begin : begin + x.numel()].view(x.shape).copy_(x))
    assert not fake.calls


@pytest.mark.parametrize("stem", OPAQUE)
def test_a_form_of_the_librarys_own_is_tagged_and_says_that_it_cannot_be_undone(stem, fake):
    _, _, weights, prepared, _ = layer(stem, 130, 192, 2)
    assert prepared.weight_layout == f"flashinfer:nvfp4_w4a16_{stem}"
    assert prepared.restore is None
    assert not {"data", "scales"} & prepared.tensors.keys()
    assert fake.calls[0][0] == "prepare_bf16_fp4_weights"
    assert torch.equal(prepared.tensors["alpha"], weights.global_scale)


def test_no_two_kernels_read_one_anothers_opaque_weights(fake):
    layouts = [SPECS[stem].capability.weight_layout for stem in OPAQUE]
    assert len(set(layouts)) == len(layouts)
    config, x, weights, _, _ = layer("cudnn", 64, 64, 5)
    prepared = nvfp4_w4a16.cudnn.prepare(weights, config, CPU)
    y = nvfp4_w4a16.blackwell_native.bind(config, prepared, CPU)(x)
    assert not agreement(config, Call((x, weights)), y).ok, "the stand-in's forms differ"
    assert fake.calls


def test_the_native_form_is_that_of_the_nvfp4_kernels_and_gives_the_bits_back(fake):
    _, _, weights, prepared, _ = layer("cute_dsl_native", 130, 192, 2)
    assert prepared.weight_layout == "flashinfer:nvfp4_128x4"
    tiled = {o.spec.capability.weight_layout for o in specs_nvfp4.offers()}
    assert prepared.weight_layout in tiled
    back = prepared.restore().named()
    for name, tensor in weights.named().items():
        assert torch.equal(back[name].view(torch.uint8), tensor.view(torch.uint8))
    assert not fake.calls


@pytest.mark.parametrize("stem", OPAQUE)
def test_a_preparation_that_the_library_refuses_is_a_build_error(stem, fake, monkeypatch):
    def refuse(**_: Any) -> None:
        raise NotImplementedError("cute-dsl w4a16 GEMM only supports SM100/103/107 and SM12x")

    monkeypatch.setattr(fake, "prepare_bf16_fp4_weights", refuse)
    with pytest.raises(BuildError) as found:
        layer(stem, 64, 64, 2)
    assert found.value.code == "unsupported"


def test_thor_is_offered_no_kernel_whose_preparation_raises_there():
    """The library's decorator names sm110 for cute-dsl; its `_prepare_cute_dsl` raises on it."""
    from quantmux.capability.arch import Arch

    thor = Arch.parse("110")
    served = {s for s, c in SPECS.items() if any(thor in a for a in c.capability.arch)}
    assert served == {"cudnn"}


def test_a_kernel_compiled_for_every_m_is_offered_for_few_of_them():
    bounds = {s: c.capability.m_max for s, c in SPECS.items()}
    assert bounds == {**dict.fromkeys(OPAQUE), "cute_dsl_native": 16}


def test_nothing_is_offered_below_blackwell_or_unproved_as_proved():
    for spec in SPECS.values():
        assert min(int(str(a).rstrip("af")) for a in spec.capability.arch) >= 100
        assert spec.capability.is_experimental
        assert spec.capability.launches is None


@pytest.mark.parametrize("stem", SPECS)
def test_the_installed_library_takes_the_calls_that_are_made(stem, installed: ModuleType):
    entry = OFFERS[stem].entry
    for asked in (entry, entries.preparation_of(entry)):
        parameters = inspect.signature(getattr(installed, asked.name)).parameters
        assert {*asked.parameters, "backend"} <= parameters.keys()
    assert installed.mm_bf16_fp4.has_backend(entry.backend)


def test_the_real_preparation_for_cudnn_reads_our_tiles(installed: ModuleType, monkeypatch):
    """It is plain torch: codes stay, and scales come out as the row-major grid we began with."""
    real = partial(installed.prepare_bf16_fp4_weights)
    monkeypatch.setattr(functions, "function", lambda *_: real)
    config = LinearConfig(in_features=192, out_features=64, scheme="nvfp4_w4a16")
    _, weights = make_inputs(Case(config, 2, "normal"), "cpu", 5).args
    tensors = nvfp4_w4a16.cudnn.prepare(weights, config, CPU).tensors
    assert torch.equal(tensors["weight"], weights.data)
    have, want = tensors["weight_scales"], weights.scales
    assert have.dtype == want.dtype
    assert torch.equal(have.view(torch.uint8), want.view(torch.uint8))
    assert torch.equal(tensors["alpha"], weights.global_scale)
