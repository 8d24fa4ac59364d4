"""NVFP4 by NVFP4 through a strict stand-in of ``mm_fp4``: what reaches the library and what not."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests.backends.flashinfer.fp4_fake import FakeLibrary

from quantmux import LinearConfig
from quantmux.capability.profiles import CPU
from quantmux.errors import DtypeError, InputError, LaunchError, LayoutError, ShapeError
from quantmux.ops.agreement import agreement
from quantmux.ops.linear.spec import empty_output, make_inputs
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.spec import Call, Case
from quantmux_flashinfer.library import functions
from quantmux_flashinfer.linear import nvfp4, specs_nvfp4

if TYPE_CHECKING:
    from types import ModuleType

    from quantmux.ops.quantized import QuantizedTensor
    from quantmux.registry.kernel_spec import KernelSpec

SPECS = {o.spec.id.partition("linear_nvfp4_")[2]: o.spec for o in specs_nvfp4.offers()}
ENTRIES = {o.spec.id.partition("linear_nvfp4_")[2]: o.entry for o in specs_nvfp4.offers()}
SHAPES = ((128, 256), (130, 192), (64, 64), (33, 17), (1, 1), (64, 48), (72, 328))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    library = FakeLibrary()
    monkeypatch.setattr(functions, "function", library.function)
    return library


def served_shapes(spec: KernelSpec) -> list[tuple[int, int]]:
    c = spec.capability
    return [(n, k) for n, k in SHAPES if n % c.align_n == 0 and k % c.align_k == 0]


def config_of(spec: KernelSpec, n: int = 128, k: int = 256, **changes: Any) -> LinearConfig:
    fields = {"scheme": "nvfp4", "out_dtype": spec.capability.out_dtypes[0], **changes}
    return LinearConfig(in_features=k, out_features=n, **fields)


def operands(
    spec: KernelSpec, config: LinearConfig, m: int, seed: int = 3, scales: str | None = None
) -> tuple[QuantizedTensor, Any]:
    """Give x as the kernel reads it, made by the reference, and canonical weights."""
    from quantmux.dispatch.join import required_input

    x, weights = make_inputs(Case(config, m, "normal"), "cpu", seed).args
    activation = config.scheme.activation
    name = scales or spec.capability.schemes[0].activation.layouts[0]
    pad = spec.capability.pad_k_to
    reads = required_input(activation, config.k, name, pad, 1, config.in_dtype)
    own = (
        {} if activation.global_scale == "dynamic" else {"global_scale": weights.input_global_scale}
    )
    return quantize(x, reads, **own), weights


def bound(spec: KernelSpec, config: LinearConfig, weights: Any) -> Any:
    kernel = getattr(nvfp4, spec.load.partition(":")[2])
    return kernel.bind(config, kernel.prepare(weights, config, CPU), CPU)


def require_agreement(config: LinearConfig, q: Any, weights: Any, y: torch.Tensor) -> None:
    found = agreement(config, Call((q, weights)), y)
    assert found.ok, found.reason


@pytest.mark.parametrize("stem", SPECS)
def test_every_kernel_agrees_with_the_definition_on_shapes_on_and_off_its_pads(stem, fake):
    spec = SPECS[stem]
    fake.sm = 120 if "sm120" in stem or stem == "b12x" else 100
    for n, k in served_shapes(spec):
        for m in (1, 8) if spec.capability.m_max == 8 else (1, 31):
            config = config_of(spec, n, k)
            q, weights = operands(spec, config, m)
            require_agreement(config, q, weights, bound(spec, config, weights)(q))


@pytest.mark.parametrize("stem", SPECS)
def test_every_output_format_that_is_declared_is_served(stem, fake):
    spec = SPECS[stem]
    for out_dtype in spec.capability.out_dtypes:
        config = config_of(spec, 64, 64, out_dtype=out_dtype)
        q, weights = operands(spec, config, 3)
        require_agreement(config, q, weights, bound(spec, config, weights)(q))
    assert fake.calls


@pytest.mark.parametrize("scheme", ["nvfp4", "nvfp4_dynamic"])
def test_alpha_is_made_from_the_scale_that_x_brings(scheme, fake):
    spec = SPECS["cutlass"]
    config = config_of(spec, scheme=scheme)
    q, weights = operands(spec, config, 4)
    run = bound(spec, config, weights)
    other = replace(q, global_scale=q.global_scale * 3)
    require_agreement(config, other, weights, run(other))
    require_agreement(config, q, weights, run(q))
    alphas = [call["alpha"] for _, call in fake.calls]
    assert torch.equal(alphas[0], other.global_scale * weights.global_scale)
    assert torch.equal(alphas[1], q.global_scale * weights.global_scale)


def test_alpha_is_made_once_where_x_carries_the_layers_own_scale(fake):
    spec = SPECS["cutlass"]
    config = config_of(spec)
    q, weights = operands(spec, config, 4)
    kernel = nvfp4.cutlass
    prepared = kernel.prepare(weights, config, CPU)
    run = kernel.bind(config, prepared, CPU)
    own = replace(q, global_scale=weights.input_global_scale)
    require_agreement(config, own, weights, run(own))
    assert fake.calls[-1][1]["alpha"] is prepared.tensors["alpha"]
    equal = replace(q, global_scale=weights.input_global_scale.clone())
    run(equal)
    assert fake.calls[-1][1]["alpha"] is not prepared.tensors["alpha"]


def test_a_dynamic_layer_has_no_alpha_of_its_own(fake):
    config = config_of(SPECS["cutlass"], scheme="nvfp4_dynamic")
    q, weights = operands(SPECS["cutlass"], config, 4)
    prepared = nvfp4.cutlass.prepare(weights, config, CPU)
    assert "alpha" not in prepared.tensors
    run = nvfp4.cutlass.bind(config, prepared, CPU)
    run(q)
    with pytest.raises(LayoutError, match="global scale"):
        run(replace(q, global_scale=None))
    assert len(fake.calls) == 1


@pytest.mark.parametrize("stem", SPECS)
def test_no_rows_call_nothing(stem, fake):
    spec = SPECS[stem]
    config = config_of(spec, 64, 64)
    q, weights = operands(spec, config, 0)
    run = bound(spec, config, weights)
    assert run(q).shape == (0, 64)
    out = torch.empty(0, 64, dtype=torch.bfloat16)
    assert run(q, out=out) is out
    assert not fake.calls


@pytest.mark.parametrize("stem", ["cutlass", "trtllm"])
def test_out_with_the_gaps_that_are_declared_is_written_in_place(stem, fake):
    spec = SPECS[stem]
    config = config_of(spec, 130, 256)
    q, weights = operands(spec, config, 5)
    multiple = spec.capability.output_row_multiple
    run = bound(spec, config, weights)
    out = empty_output(5, 130, torch.bfloat16, "cpu", row_multiple=multiple)
    assert run(q, out=out) is out
    require_agreement(config, q, weights, out)
    assert run(q).stride() == out.stride()
    assert len(fake.calls) == 2


@pytest.mark.parametrize(
    ("out", "error"),
    [
        (torch.empty(5, 130, dtype=torch.bfloat16), LayoutError),
        (torch.empty(5, 160, dtype=torch.float16)[:, :130], DtypeError),
        (torch.empty(5, 160, dtype=torch.bfloat16)[:, :129], ShapeError),
        (torch.empty(160, 5, dtype=torch.bfloat16).T[:, :130], LayoutError),
        (torch.empty(5 * 160 + 1, dtype=torch.bfloat16)[1:].view(5, 160)[:, :130], LayoutError),
        (
            torch.empty(4 * 160 + 130, dtype=torch.bfloat16).as_strided((5, 130), (160, 1)),
            LayoutError,
        ),
        (torch.empty(5, 160, dtype=torch.bfloat16, device="meta")[:, :130], InputError),
    ],
    ids=["rows", "dtype", "shape", "columns", "alignment", "last gap", "device"],
)
def test_an_out_that_the_library_would_misread_is_refused_before_the_call(out, error, fake):
    config = config_of(SPECS["cutlass"], 130, 256)
    q, weights = operands(SPECS["cutlass"], config, 5)
    with pytest.raises(error):
        bound(SPECS["cutlass"], config, weights)(q, out=out)
    assert not fake.calls


@pytest.mark.parametrize("stem", ["cutlass", "trtllm_8x4"])
def test_scales_in_another_layout_are_refused_although_they_may_have_the_shape(stem, fake):
    spec = SPECS[stem]
    config = config_of(spec, 128, 256)
    own = spec.capability.schemes[0].activation.layouts[0]
    q, weights = operands(spec, config, 32)
    run = bound(spec, config, weights)
    for name in {"row_major", "swizzled_128x4", "swizzled_8x4"} - {own}:
        other, _ = operands(spec, config, 32, scales=name)
        for after in range(2):
            with pytest.raises(LayoutError, match=name):
                run(other)
            assert len(fake.calls) == after
            run(q)
        fake.calls.clear()


def test_another_width_another_operand_and_no_quantized_matrix_are_refused(fake):
    spec = SPECS["cutlass"]
    config, wider = config_of(spec, 128, 256), config_of(spec, 128, 320)
    q, weights = operands(spec, config, 5)
    run = bound(spec, config, weights)
    with pytest.raises(ShapeError):
        run(operands(spec, wider, 5)[0])
    fp8 = config_of(spec, 128, 256, scheme="fp8_channel_token")
    x, _ = make_inputs(Case(fp8, 5, "normal"), "cpu", 0).args
    from quantmux import QuantizeConfig

    with pytest.raises(LayoutError, match="nvfp4"):
        run(quantize(x, QuantizeConfig(operand="fp8_token", n=256)))
    assert not fake.calls
    run(q)
    assert len(fake.calls) == 1


def test_x_that_begins_off_its_alignment_is_refused(fake):
    spec = SPECS["cutlass"]
    config = config_of(spec, 64, 64)
    q, weights = operands(spec, config, 3)
    run = bound(spec, config, weights)
    run(q)
    storage = torch.empty(q.data.numel() + 64, dtype=torch.uint8)
    begin = -storage.data_ptr() % 32 + 16
    moved = storage[begin : begin + q.data.numel()].view(q.data.shape).copy_(q.data)
    with pytest.raises(LayoutError, match="32 bytes"):
        run(replace(q, data=moved))
    assert len(fake.calls) == 1


def test_the_8x4_kernel_counts_on_zero_scales_behind_the_last_row(fake):
    """The upstream fault is in the stand-in: with anything but zeros the numbers are wrong."""
    spec = SPECS["trtllm_8x4"]
    config = config_of(spec, 128, 256)
    q, weights = operands(spec, config, 5)
    run = bound(spec, config, weights)
    require_agreement(config, q, weights, run(q))
    dirty = q.scales.clone()
    dirty.view(torch.uint8)[5:] = 0x7F
    assert run(replace(q, scales=dirty)).isnan().any()
    assert len(fake.calls) == 2


def test_kernels_for_few_rows_say_so():
    assert {s: c.capability.m_max for s, c in SPECS.items() if c.capability.m_max} == {
        "trtllm_8x4": 32,
        "cutedsl_low_latency": 8,
    }


@pytest.mark.parametrize("stem", SPECS)
def test_preparation_gives_the_checkpoints_bits_back_and_changes_none(stem):
    spec = SPECS[stem]
    kernel = getattr(nvfp4, stem)
    for n, k in served_shapes(spec):
        config = config_of(spec, n, k)
        _, weights = operands(spec, config, 2)
        before = {name: t.clone() for name, t in weights.named().items()}
        prepared = kernel.prepare(weights, config, CPU)
        again = kernel.prepare(weights, config, CPU)
        assert prepared.weight_layout == spec.capability.weight_layout
        for name, tensor in prepared.tensors.items():
            assert torch.equal(tensor.view(torch.uint8), again.tensors[name].view(torch.uint8))
        for found in (prepared.restore().named(), weights.named()):
            assert found.keys() == before.keys()
            for name, tensor in found.items():
                assert tensor.dtype == before[name].dtype
                assert torch.equal(tensor.view(torch.uint8), before[name].view(torch.uint8))


def test_codes_that_need_no_change_are_the_checkpoints_own_tensor():
    config = config_of(SPECS["cutlass"], 64, 128)
    _, weights = operands(SPECS["cutlass"], config, 2)
    prepared = nvfp4.cutlass.prepare(weights, config, CPU)
    assert prepared.tensors["data"] is weights.data
    assert nvfp4.trtllm.prepare(weights, config, CPU).tensors["data"] is not weights.data


def test_kernels_of_one_weight_layout_read_each_others_weights(fake):
    tiled = [s for s in SPECS.values() if s.capability.weight_layout == "flashinfer:nvfp4_128x4"]
    assert len(tiled) == 6
    pads = {(s.capability.pad_n_to, s.capability.pad_k_to) for s in tiled}
    assert pads == {(32, 32)}
    assert nvfp4.trtllm.form is nvfp4.trtllm_8x4.form
    assert not fake.calls


@pytest.mark.parametrize(
    ("raised", "error", "code"),
    [
        (RuntimeError("CUDA error: invalid argument"), LaunchError, "cuda"),
        (KeyError("something new"), LaunchError, "flashinfer"),
    ],
)
def test_what_the_library_raises_arrives_as_ours_with_its_text(raised, error, code, fake):
    config = config_of(SPECS["cutlass"], 64, 64)
    q, weights = operands(SPECS["cutlass"], config, 3)

    def fail(_y: torch.Tensor) -> torch.Tensor:
        raise raised

    fake.result = fail
    with pytest.raises(error) as found:
        bound(SPECS["cutlass"], config, weights)(q)
    assert found.value.code == code
    assert found.value.__cause__ is raised


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=list(ENTRIES))
def test_the_installed_library_takes_the_call_that_is_made(entry, installed: ModuleType):
    function = getattr(installed, entry.name)
    parameters = inspect.signature(function).parameters
    assert {*entry.parameters, "backend"} <= parameters.keys()
    assert function.has_backend(entry.backend)


def test_nothing_is_offered_below_blackwell_or_unproved_as_proved():
    for spec in SPECS.values():
        least = min(int(str(a).rstrip("af")) for a in spec.capability.arch)
        assert least >= 100
        assert spec.capability.is_experimental
        assert not spec.capability.takes_bias


def selected(device: str, stems: tuple[str, ...]) -> Any:
    """Give the selection on a named GPU where only some kernels of this backend may serve."""
    from quantmux import select

    allowed = {f"flashinfer/linear_nvfp4_{stem}" for stem in stems}
    others = [s.id for s in SPECS.values() if s.id not in allowed]
    deny = [*others, "cutlass/*", "triton/*", "torch/linear_emulated*", "flashinfer/*w4a16*"]
    config = LinearConfig(in_features=2048, out_features=7168, scheme="nvfp4")
    return select(config, device, deny=deny)


@pytest.mark.parametrize("device", ["b200", "b300"])
def test_trtllm_takes_few_rows_with_8x4_scales_and_more_with_128x4_on_one_copy(device):
    found = selected(device, ("trtllm", "trtllm_8x4"))
    taken = [(r.m_min, r.m_max, r.pipeline.main.id.rpartition("nvfp4_")[2]) for r in found.ranges]
    assert taken == [(1, 32, "trtllm_8x4"), (33, None, "trtllm")]
    layouts = {r.pipeline.main.capability.weight_layout for r in found.ranges}
    assert layouts == {"flashinfer:nvfp4_trtllm"}


@pytest.mark.parametrize(
    ("device", "first"), [("b200", "cutlass"), ("b300", "cutlass"), ("rtx_pro_6000", "b12x")]
)
def test_the_backends_own_order_says_who_goes_first_where_nothing_was_measured(device, first):
    found = selected(device, tuple(SPECS))
    assert [r.pipeline.main.id for r in found.ranges] == [f"flashinfer/linear_nvfp4_{first}"]


@pytest.mark.parametrize("stem", SPECS)
def test_warming_up_asks_for_x_as_the_kernel_reads_it(stem, monkeypatch):
    spec, asked = SPECS[stem], []
    monkeypatch.setattr(nvfp4, "dry_run", lambda *given: asked.append(given))
    config = config_of(spec, 128, 192)
    getattr(nvfp4, stem).warmup(config, [1, 16])
    ((_, given, ms, source),) = asked
    assert (given, ms) == (config, [1, 16])
    assert source.layout.scales == spec.capability.schemes[0].activation.layouts[0]
    assert source.layout.padded_n == (256 if "trtllm" in stem else 192)
