"""What the producers may never do, and what of a call reaches the library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from quantmux.capability.arch import Arch
from quantmux.capability.profiles import CPU, PROFILES
from quantmux.config import (
    QuantizeConfig,
    RmsNormQuantizeConfig,
    RopeQuantizeConfig,
    SiluMulQuantizeConfig,
)
from quantmux.config.settings import Settings
from quantmux.dispatch import Inventory, survey
from quantmux.errors import BuildError, InputError, LayoutError, NumericsError, ShapeError
from quantmux.ops.agreement import agreement
from quantmux.ops.inputs import make_matrix
from quantmux.ops.quantized import empty_quantized
from quantmux.ops.rmsnorm_quantize.reference import rmsnorm_quantize
from quantmux.ops.spec import Call, Case, op_spec
from quantmux_flashinfer.catalog import offers
from quantmux_flashinfer.plugin import quantmux_kernels
from quantmux_flashinfer.quantize import nvfp4, pieces
from quantmux_flashinfer.rmsnorm_quantize import fp8_tensor as rms
from quantmux_flashinfer.rope_quantize import fp8_tensor as rope
from quantmux_flashinfer.silu_mul_quantize import nvfp4 as silu

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.backends.flashinfer.strict_fake import Fake

    Pretend = Callable[[int], Fake]

NVFP4_WRITERS = ("quantize_nvfp4", "quantize_nvfp4_cute_dsl", "silu_mul_quantize_nvfp4")
ROPE = {"heads": 3, "head_dim": 128, "rope_dim": 64, "static_scale": 0.01}


def spec_of(stem: str) -> Any:
    (spec,) = (s for s in quantmux_kernels() if s.id == f"flashinfer/{stem}")
    return spec


def static_nvfp4(layout: str = "swizzled_128x4", n: int = 64) -> QuantizeConfig:
    return QuantizeConfig(operand="nvfp4_static", n=n, layout=layout)


def judged(config: Any, call: Call, result: Any, stem: str) -> str:
    capability = spec_of(stem).capability
    return agreement(
        config, call, result, rel_tolerance=capability.rel_tolerance, tags=capability.tags
    ).reason


@pytest.mark.parametrize("stem", NVFP4_WRITERS)
@pytest.mark.parametrize("sm", ["75", "80", "86", "89", "90"])
def test_no_nvfp4_is_written_below_sm100(stem: str, sm: str) -> None:
    arch = Arch.parse(sm)
    assert not any(arch in archs for archs in spec_of(stem).capability.arch)
    entry = next(o.entry for o in offers() if o.spec.id == f"flashinfer/{stem}")
    assert entry.modules_on(arch) == ()


@pytest.mark.parametrize("device", ["a100", "l40s", "h100", "h200"])
def test_selection_refuses_the_nvfp4_quantizers_by_arch_below_blackwell(device: str) -> None:
    for config in (
        static_nvfp4(),
        SiluMulQuantizeConfig(operand="nvfp4_static", n=64, layout="swizzled_128x4"),
    ):
        stock = Inventory(kernels=quantmux_kernels())
        found = survey(config, PROFILES[device], Settings(order=("flashinfer",)), stock)
        assert not found.is_served
        for kernel, reasons in found.rejected.items():
            assert "arch" in {str(r.code) for r in reasons}, kernel


@pytest.mark.parametrize("stem", NVFP4_WRITERS)
def test_on_a_blackwell_gpu_they_are_offered_behind_exact_kernels(stem: str) -> None:
    spec = spec_of(stem)
    assert spec.capability.is_approximate
    assert spec.capability.is_experimental
    assert any(Arch.parse("103") in archs for archs in spec.capability.arch)


def test_memory_left_as_it_was_is_found_by_the_first_use_check(
    fake_with_producers: Pretend,
) -> None:
    # as if somebody had widened the capability: the library raises nothing on sm90
    from quantmux.runtime.self_check_case import SmallCase
    from quantmux.runtime.self_check_run import run_case

    fake = fake_with_producers(90)
    fake.asked.add("fp4_quantization_90")
    case = SmallCase(static_nvfp4(), 9, "normal", None)
    with pytest.raises(NumericsError):
        run_case(case, spec_of("quantize_nvfp4"), nvfp4.kernel, CPU)
    assert fake.launches == ["fp4_quantize"]


def test_the_same_check_passes_on_sm100(fake_with_producers: Pretend) -> None:
    from quantmux.runtime.self_check_case import SmallCase
    from quantmux.runtime.self_check_run import run_case

    fake_with_producers(100)
    run_case(
        SmallCase(static_nvfp4(), 9, "normal", None),
        spec_of("quantize_nvfp4"),
        nvfp4.kernel,
        CPU,
    )


BOUND = (
    (100, nvfp4.kernel, static_nvfp4()),
    (100, nvfp4.cute_dsl, static_nvfp4("swizzled_8x4")),
    (100, silu.kernel, SiluMulQuantizeConfig(operand="nvfp4_static", n=64, layout="row_major")),
    (90, rms.kernel, RmsNormQuantizeConfig(operand="fp8_tensor_static", n=96, layout="scalar")),
    (90, rope.kernel, RopeQuantizeConfig(**ROPE)),
)


def of(kernel: Any, config: Any, m: int, kind: str = "normal") -> tuple[Any, Call]:
    call = op_spec(config.op).inputs(Case(config, m, kind), "cpu", 3)
    return kernel.bind(config, CPU), call


@pytest.mark.parametrize(("sm", "kernel", "config"), BOUND)
def test_no_rows_call_nothing(
    fake_with_producers: Pretend, sm: int, kernel: Any, config: Any
) -> None:
    fake = fake_with_producers(sm)
    run, call = of(kernel, config, 0)
    made = run(*call.args, **call.kwargs)
    assert made.m == 0
    made.check()
    assert fake.launches == []


@pytest.mark.parametrize(("sm", "kernel", "config"), BOUND)
def test_a_result_holds_no_scale_of_the_callers(
    fake_with_producers: Pretend, sm: int, kernel: Any, config: Any
) -> None:
    # who gives it as out= to another layer would write that layer's scale over this one's
    fake_with_producers(sm)
    run, call = of(kernel, config, 5)
    made, again = run(*call.args, **call.kwargs), run(*call.args, **call.kwargs)
    mine = {t.untyped_storage().data_ptr() for t in (*call.args, *call.kwargs.values())}
    for q in (made, again):
        assert mine.isdisjoint(t.untyped_storage().data_ptr() for t in q.tensors())
    assert made.scales.data_ptr() != again.scales.data_ptr()


@pytest.mark.parametrize(("sm", "kernel", "config"), BOUND[3:])
def test_an_earlier_result_as_out_of_another_scale_changes_nothing_else(
    fake_with_producers: Pretend, sm: int, kernel: Any, config: Any
) -> None:
    fake_with_producers(sm)
    run, call = of(kernel, config, 5)
    made, kept = run(*call.args, **call.kwargs), run(*call.args, **call.kwargs)
    given = [t.clone() for t in (*call.args, *call.kwargs.values())]
    before = kept.scales.clone()
    if config.op == "rope_quantize":
        other, more = kernel.bind(config.replace(static_scale=0.5), CPU), {}
    else:
        other, more = run, {"scale": torch.tensor([0.5])}
    assert other(*call.args, **more, out=made) is made
    assert made.scales.item() == 0.5
    assert torch.equal(kept.scales, before)
    later = run(*call.args, **call.kwargs)
    assert torch.equal(later.scales, before)
    now = (*call.args, *call.kwargs.values())
    assert all(torch.equal(a, b) for a, b in zip(given, now, strict=True))


def test_codes_that_begin_off_a_vector_are_refused(fake_with_producers: Pretend) -> None:
    fake_with_producers(90)
    config = RmsNormQuantizeConfig(operand="fp8_tensor_static", n=96, layout="scalar")
    run, call = of(rms.kernel, config, 6)
    out = empty_quantized(config.operand, config.layout, 6, 96, "cpu")
    off = torch.empty(6 * 96 + 1, dtype=torch.uint8)[1:].view(out.data.dtype).view(6, 96)
    shifted = type(out)(off, out.scales, None, out.operand, out.layout, out.logical_shape)
    with pytest.raises(LayoutError, match="multiple of 8 bytes"):
        run(*call.args, **call.kwargs, out=shifted)


def test_a_weight_of_one_column_is_not_spread_over_the_row(fake_with_producers: Pretend) -> None:
    fake_with_producers(90)
    config = RmsNormQuantizeConfig(operand="fp8_tensor_static", n=96, layout="scalar")
    run, call = of(rms.kernel, config, 6)
    x, weight = call.args
    with pytest.raises(ShapeError):
        run(x, torch.cat((weight, weight))[1:2], **call.kwargs)


def test_the_cuda_form_gets_the_multiplier_and_the_cute_form_its_inverse(
    fake_with_producers: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_with_producers(100)
    given: dict[str, Any] = {}

    def library(name: str) -> Any:
        def call(**arguments: Any) -> Any:
            given[name] = arguments
            m, n = arguments["input"].shape
            rows = torch.zeros(m, n // 16, dtype=torch.uint8)
            return torch.zeros(m, n // 2, dtype=torch.uint8), rows

        return call

    g = torch.tensor([3.0e-4])
    x = make_matrix("normal", 4, 64, "bf16", seed=1)
    for name, kernel in (("cuda", nvfp4.kernel), ("cute-dsl", nvfp4.cute_dsl)):
        monkeypatch.setattr(nvfp4, "function", lambda entry, _device: library(entry.backend))
        kernel.bind(static_nvfp4("row_major"), CPU)(x, global_scale=g)
        assert given[name]["backend"] == name
        assert given[name]["nvfp4_4over6"] is None
    assert given["cuda"]["is_global_scale_inversed"] is True
    assert given["cuda"]["global_scale"] is g
    assert "is_global_scale_inversed" not in given["cute-dsl"]
    assert torch.equal(given["cute-dsl"]["global_scale"], 1 / g)


def test_one_row_that_looks_column_major_is_quantized_as_a_row(
    fake_with_producers: Pretend,
) -> None:
    fake_with_producers(100)
    config = static_nvfp4()
    row = torch.empty(64, 1, dtype=torch.bfloat16).copy_(
        make_matrix("normal", 64, 1, "bf16", seed=1)
    )
    x = row.t()  # [1, 64] with strides (1, 1): contiguous, and column-major to fp4_quantize
    assert x.is_contiguous()
    assert x.stride() == (1, 1)
    call = Call((x,), {"global_scale": torch.tensor([1e-3])})
    made = nvfp4.kernel.bind(config, CPU)(x, **call.kwargs)
    assert judged(config, call, made, "quantize_nvfp4") == ""


def test_an_x_off_the_vectors_is_copied_and_not_read_where_it_lies(
    fake_with_producers: Pretend,
) -> None:
    fake_with_producers(100)
    config = static_nvfp4()
    x = torch.empty(4 * 64 + 1, dtype=torch.bfloat16)[1:].view(4, 64)
    x.copy_(make_matrix("normal", 4, 64, "bf16", seed=1))
    assert x.data_ptr() % pieces.ALIGNMENT
    call = Call((x,), {"global_scale": torch.tensor([1e-3])})
    made = nvfp4.kernel.bind(config, CPU)(x, **call.kwargs)
    assert judged(config, call, made, "quantize_nvfp4") == ""


@pytest.mark.parametrize(("sm", "kernel", "config"), BOUND[:4])
def test_scales_that_are_none_are_refused_before_the_library_sees_them(
    fake_with_producers: Pretend, sm: int, kernel: Any, config: Any
) -> None:
    fake = fake_with_producers(sm)
    run, call = of(kernel, config, 4)
    name = next(iter(call.kwargs))
    for wrong in (None, torch.ones(2), torch.ones(1, dtype=torch.float64)):
        with pytest.raises(InputError):
            run(*call.args, **{name: wrong})
    assert fake.launches == []


def test_a_weight_in_fp32_is_refused_since_its_bits_would_be_read_as_bf16(
    fake_with_producers: Pretend,
) -> None:
    fields: dict[str, Any] = {"operand": "fp8_tensor_static", "n": 96, "layout": "scalar"}
    refused = spec_of("rmsnorm_quantize_fp8_tensor").veto(
        RmsNormQuantizeConfig(**fields, fp32_weight=True), PROFILES["h200"]
    )
    assert refused is not None
    assert refused.field == "weight_dtype"
    fake = fake_with_producers(90)
    run, call = of(rms.kernel, RmsNormQuantizeConfig(**fields), 4)
    x, weight = call.args
    with pytest.raises(InputError):
        run(x, weight.float(), **call.kwargs)
    assert fake.launches == []


def test_rows_beyond_32_bit_offsets_are_normalized_in_parts(
    fake_with_producers: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = fake_with_producers(90)
    monkeypatch.setattr(rms, "OFFSETS", 1000)
    config = RmsNormQuantizeConfig(operand="fp8_tensor_static", n=96, layout="scalar")
    run, call = of(rms.kernel, config, 37)
    made = run(*call.args, **call.kwargs)
    assert len(fake.launches) == 4  # ten rows of 96 lie below 1000
    assert judged(config, call, made, "rmsnorm_quantize_fp8_tensor") == ""
    assert sum(s.stop - s.start for s in rms._parts(2**20, 7168)) == 2**20
    assert all((s.stop - s.start) * 7168 < 2**32 for s in rms._parts(2**20, 7168))


@pytest.mark.parametrize("part", ["x", "rows", "weight", "gaps"])
@pytest.mark.parametrize("n", [96, 97, 98, 100])
def test_rows_and_weights_off_the_vectors_are_copied(
    fake_with_producers: Pretend, part: str, n: int
) -> None:
    fake_with_producers(90)
    config = RmsNormQuantizeConfig(operand="fp8_tensor_static", n=n, layout="scalar")
    run, call = of(rms.kernel, config, 6)
    x, weight = call.args
    if part == "x":
        x = torch.empty(6 * n + 1, dtype=x.dtype)[1:].view(6, n).copy_(x)
    elif part == "rows":
        x = torch.empty(6, n + 3, dtype=x.dtype)[:, :n].copy_(x)
    elif part == "weight":
        weight = torch.empty(n + 1, dtype=weight.dtype)[1:].copy_(weight)
    else:
        weight = torch.full((n, 2), torch.nan, dtype=weight.dtype)[:, 0].copy_(weight)
    moved = Call((x, weight), call.kwargs)
    made = run(x, weight, **call.kwargs)
    assert judged(config, moved, made, "rmsnorm_quantize_fp8_tensor") == ""


def test_an_out_that_holds_the_given_scale_is_not_copied_onto_itself(
    fake_with_producers: Pretend,
) -> None:
    fake_with_producers(90)
    config = RmsNormQuantizeConfig(operand="fp8_tensor_static", n=96, layout="scalar")
    run, call = of(rms.kernel, config, 6)
    scale = call.kwargs["scale"]
    out = empty_quantized(config.operand, config.layout, 6, 96, "cpu")
    shared = type(out)(out.data, scale, None, out.operand, out.layout, out.logical_shape)
    before = scale._version
    assert run(*call.args, scale=scale, out=shared) is shared
    assert scale._version == before
    want = rmsnorm_quantize(*call.args, config, scale=scale)
    assert torch.equal(shared.data.view(torch.uint8), want.data.view(torch.uint8))


def test_norms_of_the_cute_dsl_are_not_taken_for_those_that_were_proven(
    fake_with_producers: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    import flashinfer.norm

    fake_with_producers(90)
    config = RmsNormQuantizeConfig(operand="fp8_tensor_static", n=96, layout="scalar")
    assert flashinfer.norm._USE_CUDA_NORM
    rms.kernel.bind(config, CPU)
    monkeypatch.setattr(flashinfer.norm, "_USE_CUDA_NORM", False)
    with pytest.raises(BuildError, match="CuTe DSL") as error:
        rms.kernel.bind(config, CPU)
    assert error.value.code == "unsupported"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"static_scale": None}, "static_scale"),
        ({"rope_dim": 48}, "rope_dim"),
        ({"rope_dim": 24, "interleaved": True}, "rope_dim"),
        ({"head_dim": 72}, "head_dim"),
        ({"heads": 65535}, "heads"),
    ],
)
def test_rope_refuses_what_the_library_would_rotate_wrongly(
    changes: dict[str, Any], field: str
) -> None:
    veto = spec_of("rope_quantize_fp8_tensor").veto
    assert veto(RopeQuantizeConfig(**ROPE), PROFILES["h200"]) is None
    refused = veto(RopeQuantizeConfig(**{**ROPE, **changes}), PROFILES["h200"])
    assert refused is not None
    assert refused.field == field


def test_halves_that_are_no_multiple_of_16_do_get_sines_for_cosines(
    fake_with_producers: Pretend,
) -> None:
    # why the veto is there: the library raises nothing
    fake_with_producers(90)
    config = RopeQuantizeConfig(**{**ROPE, "rope_dim": 48})
    run, call = of(rope.kernel, config, 5)
    made = run(*call.args)
    assert "data at" in judged(config, call, made, "rope_quantize_fp8_tensor")


@pytest.mark.parametrize("at", ["first", "last"])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rope_dim", [32, 64, 128])
def test_heads_within_a_wider_row_are_rotated_where_they_lie(
    fake_with_producers: Pretend, at: Any, interleaved: bool, rope_dim: int
) -> None:
    fake_with_producers(90)
    changes = {"rope_at": at, "interleaved": interleaved, "rope_dim": rope_dim}
    config = RopeQuantizeConfig(**{**ROPE, **changes})
    run, call = of(rope.kernel, config, 7)
    x, *rest = call.args
    qkv = torch.full((7, 5 * 128), torch.nan, dtype=x.dtype)
    heads = qkv[:, 128:512].view(7, 3, 128).copy_(x)
    assert heads.data_ptr() != x.data_ptr()
    out = empty_heads_out(config, 7)
    made = run(heads, *rest, out=out)
    assert made is out
    assert judged(config, Call((heads, *rest)), made, "rope_quantize_fp8_tensor") == ""


def empty_heads_out(config: RopeQuantizeConfig, t: int) -> Any:
    from quantmux.ops.rope_quantize.spec import empty_heads

    return empty_heads(config, t, "cpu")


def test_rope_with_a_scale_of_the_call_is_refused_and_so_is_a_misaligned_out(
    fake_with_producers: Pretend,
) -> None:
    fake = fake_with_producers(90)
    config = RopeQuantizeConfig(**ROPE)
    run, call = of(rope.kernel, config, 5)
    with pytest.raises(InputError):
        run(*call.args, scale=torch.ones(1))
    out = empty_heads_out(config, 5)
    moved = torch.empty(5 * 3 * 128 + 8, dtype=out.data.dtype)[8:].view(5, 3, 128)
    off = type(out)(moved, out.scales, None, out.operand, out.layout, out.logical_shape)
    with pytest.raises(LayoutError, match="16 bytes"):
        run(*call.args, out=off)
    assert fake.launches == []


def test_positions_and_caches_with_gaps_are_read_right(fake_with_producers: Pretend) -> None:
    fake_with_producers(90)
    config = RopeQuantizeConfig(**ROPE)
    run, call = of(rope.kernel, config, 5)
    x, positions, cache = call.args
    gaps = positions.repeat_interleave(2)[::2]
    wide = torch.full((cache.shape[0], 72), torch.nan)
    wide[:, :64] = cache
    made = run(x, gaps, wide[:, :64])
    assert judged(config, call, made, "rope_quantize_fp8_tensor") == ""
