"""FP8 linears: what their hosts hand to the library, refuse, and give back."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests.backends.flashinfer import fp8_fakes

from quantmux.capability.profiles import CPU, PROFILES
from quantmux.config import LinearConfig, Scheme
from quantmux.config.operands import operand
from quantmux.dispatch.join import required_input
from quantmux.errors import BuildError, DtypeError, InputError, LayoutError, ShapeError
from quantmux.ops.agreement import agreement
from quantmux.ops.linear.spec import empty_output, make_inputs
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.spec import Call, Case
from quantmux_flashinfer.linear import specs_fp8, specs_fp8_block

if TYPE_CHECKING:
    from quantmux.registry.kernel_spec import KernelSpec

SPECS = {
    offer.spec.id.partition("linear_fp8_")[2]: offer.spec
    for offer in (*specs_fp8.offers(), *specs_fp8_block.offers())
}
INSIDE = "block_sm90_inside"
QUANTIZED = [stem for stem in SPECS if stem != INSIDE]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> fp8_fakes.Library:
    return fp8_fakes.library(monkeypatch)


def kernel_of(spec: KernelSpec) -> Any:
    module, _, name = spec.load.partition(":")
    return getattr(import_module(module), name)


def asked(spec: KernelSpec, n: int, k: int, **more: Any) -> LinearConfig:
    scheme = "fp8_block128" if "_block" in spec.id else "fp8_tensor"
    return LinearConfig(in_features=k, out_features=n, **{"scheme": scheme, **more})


def made(
    spec: KernelSpec, config: LinearConfig, m: int, kind: str = "normal"
) -> tuple[Any, Any, Call]:
    """Give a bound function, the x that it reads, and the call that it means."""
    kernel = kernel_of(spec)
    x, weights = make_inputs(Case(config, m, kind), "cpu", 5).args
    run = kernel.bind(config, kernel.prepare(weights, config, CPU), CPU)
    activation, capability = config.scheme.activation, spec.capability
    assert activation is not None
    if capability.schemes[0].quantizes_inside:
        return run, x, Call((x, weights))
    offer = capability.schemes[0].activation
    assert offer is not None
    source = required_input(
        activation, config.k, offer.layouts[0], capability.pad_k_to, capability.pad_m_to, "bf16"
    )
    assert source is not None
    q = quantize(x, source)
    return run, q, Call((q, weights))


def agrees(spec: KernelSpec, config: LinearConfig, call: Call, y: torch.Tensor) -> None:
    found = agreement(config, call, y, rel_tolerance=spec.capability.rel_tolerance)
    assert found.ok, found.reason


def odd_shape(spec: KernelSpec) -> tuple[int, int]:
    """Give N and K off every pad of the kernel, as far as it takes them."""
    k = 384 if spec.capability.align_k > 1 else 330
    return 150, k


@pytest.mark.parametrize("m", [1, 4, 7, 33])
@pytest.mark.parametrize("stem", SPECS)
def test_a_linear_off_every_pad_agrees_with_the_definition(
    library: fp8_fakes.Library, stem: str, m: int
) -> None:
    spec = SPECS[stem]
    if spec.capability.m_max is not None and m > spec.capability.m_max:
        m = spec.capability.m_max
    n, k = odd_shape(spec)
    config = asked(spec, n, k)
    run, x, call = made(spec, config, m)
    y = run(x)
    agrees(spec, config, call, y)
    multiple = spec.capability.output_row_multiple
    assert y.stride() == (-(-n // multiple) * multiple, 1)
    assert len(library.calls) == 1


@pytest.mark.parametrize("stem", SPECS)
def test_an_output_of_the_caller_is_filled_and_given_back(
    library: fp8_fakes.Library, stem: str
) -> None:
    spec, m = SPECS[stem], 7
    n, k = odd_shape(spec)
    config = asked(spec, n, k)
    run, x, call = made(spec, config, m)
    out = empty_output(m, n, torch.bfloat16, "cpu", spec.capability.output_row_multiple)
    out.fill_(torch.nan)
    assert run(x, out=out) is out
    agrees(spec, config, call, out)
    assert len(library.calls) == 1


@pytest.mark.parametrize("stem", [s for s in SPECS if "groupwise" not in s])
def test_an_output_that_the_library_would_write_beside_is_refused(
    library: fp8_fakes.Library, stem: str
) -> None:
    # H200, 2026-11-21: bmm_fp8 wrote a strided output's neighbours without an error
    spec = SPECS[stem]
    n, m = 2 * spec.capability.output_row_multiple, 8
    run, x, _ = made(spec, asked(spec, n, 256), m)
    room = torch.empty(m, 2 * n, dtype=torch.bfloat16)
    unaligned = torch.empty(m * n + 1, dtype=torch.bfloat16)[1:].view(m, n)
    for out, error in (
        (room[:, :n], LayoutError),
        (torch.empty(n, m, dtype=torch.bfloat16).T, LayoutError),
        (unaligned, LayoutError),
        (torch.empty(m, n, dtype=torch.float16), DtypeError),
        (torch.empty(m + 1, n, dtype=torch.bfloat16), ShapeError),
        (torch.empty(m, n, dtype=torch.bfloat16, device="meta"), InputError),
    ):
        with pytest.raises(error):
            run(x, out=out)
    assert not library.calls


@pytest.mark.parametrize("stem", SPECS)
def test_rows_padded_by_the_kernel_need_their_gap_in_the_output(
    library: fp8_fakes.Library, stem: str
) -> None:
    spec, m = SPECS[stem], 8
    n, k = odd_shape(spec)
    run, x, _ = made(spec, asked(spec, n, k), m)
    multiple = spec.capability.output_row_multiple
    row = -(-n // multiple) * multiple
    short = torch.empty((m - 1) * row + n, dtype=torch.bfloat16).as_strided((m, n), (row, 1))
    for out in (torch.empty(m, n, dtype=torch.bfloat16), short):
        with pytest.raises(LayoutError, match="row_multiple"):
            run(x, out=out)
    assert not library.calls


@pytest.mark.parametrize("stem", SPECS)
def test_no_rows_call_nothing(library: fp8_fakes.Library, stem: str) -> None:
    # H200, 2026-11-21: both of the library's Hopper GEMMs raise for M = 0
    spec = SPECS[stem]
    n, k = odd_shape(spec)
    run, x, _ = made(spec, asked(spec, n, k), 0)
    assert run(x).shape == (0, n)
    out = torch.empty(0, n, dtype=torch.bfloat16)
    assert run(x, out=out) is out
    assert not library.calls


@pytest.mark.parametrize("stem", QUANTIZED)
def test_codes_whose_rows_lie_apart_are_refused(library: fp8_fakes.Library, stem: str) -> None:
    spec, m = SPECS[stem], 8
    run, q, _ = made(spec, asked(spec, 256, 256), m)
    apart = torch.empty(m, 2 * 256, dtype=torch.uint8)[:, :256].view(q.data.dtype).copy_(q.data)
    with pytest.raises(LayoutError, match="strides"):
        run(replace(q, data=apart))
    moved = torch.empty(q.data.numel() + 1, dtype=torch.uint8)[1:].view(q.data.dtype)
    with pytest.raises(LayoutError, match="16 bytes"):
        run(replace(q, data=moved.view(m, 256).copy_(q.data)))
    assert not library.calls


@pytest.mark.parametrize("stem", [s for s in QUANTIZED if "block" in s])
def test_scales_that_do_not_lie_column_by_column_are_refused(
    library: fp8_fakes.Library, stem: str
) -> None:
    # the library says that it wants (M, K / 128), and reads [K / 128, R4(M)] all the same
    spec, m = SPECS[stem], 8
    run, q, _ = made(spec, asked(spec, 256, 256), m)
    with pytest.raises(LayoutError, match="strides"):
        run(replace(q, scales=q.scales.contiguous()))
    named = replace(q, layout=q.layout.replace(scales="row_major"), scales=q.scales.contiguous())
    with pytest.raises(LayoutError, match="col_major_aligned4"):
        run(named)
    assert not library.calls


def test_strides_that_address_nothing_may_be_any(library: fp8_fakes.Library) -> None:
    spec = SPECS["block_sm90"]
    config = asked(spec, 256, 128)
    run, q, call = made(spec, config, 8)
    odd = q.scales.as_strided(q.scales.shape, (1, 1))
    agrees(spec, config, call, run(replace(q, scales=odd)))
    assert library.calls


@pytest.mark.parametrize("layout", ["canonical", "padded"])
def test_scales_for_every_row_of_the_weights_never_reach_the_library(
    library: fp8_fakes.Library, layout: str
) -> None:
    # (N, K / 128) passes the library's checks and is misread: relative error 0.16 on an H200
    for stem in ("block_sm90", INSIDE):
        spec = SPECS[stem]
        config = asked(spec, 256 if layout == "canonical" else 200, 256)
        kernel = kernel_of(spec)
        _, weights = make_inputs(Case(config, 4), "cpu", 1).args
        prepared = kernel.prepare(weights, config, CPU)
        rows = prepared.tensors["scales"].repeat_interleave(128, 0)
        wrong = replace(prepared, tensors={**prepared.tensors, "scales": rows})
        with pytest.raises(LayoutError, match="128x128"):
            kernel.bind(config, wrong, CPU)
    assert not library.calls


def test_neither_form_on_hopper_offers_another_output_than_bf16() -> None:
    # the library writes bf16 bits into an fp16 output without an error
    for stem in ("block_sm90", INSIDE):
        assert SPECS[stem].capability.out_dtypes == ("bf16",)
    assert SPECS[INSIDE].capability.in_dtypes == ("bf16",)


def test_a_plain_x_is_passed_without_a_scale(library: fp8_fakes.Library) -> None:
    spec = SPECS[INSIDE]
    config = asked(spec, 128, 256)
    run, x, call = made(spec, config, 5)
    agrees(spec, config, call, run(x))
    ((_, passed),) = library.calls
    assert passed["input_scale"] is None
    assert passed["input"] is x


@pytest.mark.parametrize("how", ["rows apart", "columns apart", "off a word"])
def test_a_plain_x_in_pieces_is_brought_into_one(library: fp8_fakes.Library, how: str) -> None:
    spec, m, k = SPECS[INSIDE], 5, 256
    config = asked(spec, 128, k)
    run, x, call = made(spec, config, m)
    apart = {
        "rows apart": torch.full((m, k + 24), torch.nan, dtype=x.dtype)[:, :k],
        "columns apart": torch.full((k, m), torch.nan, dtype=x.dtype).T,
        "off a word": torch.full((m * k + 1,), torch.nan, dtype=x.dtype)[1:].view(m, k),
    }[how].copy_(x)
    agrees(spec, config, call, run(apart))
    assert library.calls[0][1]["input"].data_ptr() != apart.data_ptr()


@pytest.mark.parametrize("stem", SPECS)
def test_weights_on_the_pads_are_the_checkpoints_own(stem: str) -> None:
    spec = SPECS[stem]
    config = asked(spec, 256, 256)
    _, weights = make_inputs(Case(config, 4), "cpu", 2).args
    prepared = kernel_of(spec).prepare(weights, config, CPU)
    if spec.capability.canonical_if_aligned:
        assert prepared.weight_layout == "canonical"
        assert prepared.tensors["data"].data_ptr() == weights.data.data_ptr()
    else:
        assert prepared.weight_layout == spec.capability.weight_layout


@pytest.mark.parametrize("stem", SPECS)
def test_prepared_weights_give_the_checkpoints_bits_back(stem: str) -> None:
    spec = SPECS[stem]
    n, k = odd_shape(spec)
    config = asked(spec, n, k)
    _, weights = make_inputs(Case(config, 4), "cpu", 2).args
    before = weights.data.view(torch.uint8).clone()
    prepared = kernel_of(spec).prepare(weights, config, CPU)
    assert prepared.weight_layout == spec.capability.weight_layout_for(n, k)
    assert prepared.weight_layout != "canonical"
    assert prepared.restore is not None
    restored = prepared.restore()
    assert torch.equal(restored.data.view(torch.uint8), before)
    assert torch.equal(restored.scales, weights.scales)
    assert torch.equal(weights.data.view(torch.uint8), before)


@pytest.mark.parametrize("stem", [s for s in SPECS if s != "mm_trtllm_low_latency"])
def test_canonical_weights_that_begin_anywhere_are_read_all_the_same(
    library: fp8_fakes.Library, stem: str
) -> None:
    # a part of a fused weight, prepared by another backend's kernel that shares the form
    from quantmux.registry.protocol import PreparedWeights

    spec = SPECS[stem]
    config = asked(spec, 256, 256)
    _, x, call = made(spec, config, 4)
    weights = call.args[1]
    moved = torch.empty(weights.data.numel() + 1, dtype=torch.uint8)[1:].view(weights.data.dtype)
    named = {**weights.named(), "data": moved.view(256, 256).copy_(weights.data)}
    run = kernel_of(spec).bind(config, PreparedWeights(named, "canonical", 256, 256), CPU)
    agrees(spec, config, call, run(x))
    assert library.calls


@pytest.mark.parametrize("formats", [("fp8_e4m3", "fp8_e5m2"), ("fp8_e5m2", "fp8_e4m3")])
def test_cublas_multiplies_e5m2_by_e4m3(
    library: fp8_fakes.Library, formats: tuple[str, str]
) -> None:
    weight, activation = (operand("fp8_tensor").replace(element=element) for element in formats)
    spec = SPECS["bmm_cublas"]
    config = asked(spec, 48, 80, scheme=Scheme(weight=weight, activation=activation))
    run, q, call = made(spec, config, 9)
    agrees(spec, config, call, run(q))
    assert library.calls[0][1]["A"].dtype == q.data.dtype


@pytest.mark.parametrize("stem", SPECS)
def test_what_the_library_raises_comes_out_translated(
    library: fp8_fakes.Library, stem: str
) -> None:
    spec = SPECS[stem]
    run, x, _ = made(spec, asked(spec, 256, 256), 4)
    library.error = ValueError("Problem size is not supported for this function")
    with pytest.raises(BuildError) as raised:
        run(x)
    assert raised.value.code == "unsupported"
    assert raised.value.__cause__ is library.error


@pytest.mark.parametrize("stem", SPECS)
def test_the_real_function_takes_what_is_passed(
    installed: object, library: fp8_fakes.Library, stem: str
) -> None:
    import inspect

    del installed
    spec = SPECS[stem]
    run, x, _ = made(spec, asked(spec, 256, 256), 4)
    run(x)
    entry, passed = library.calls[0]
    module, _, name = entry.function.partition(":")
    taken = {key: value for key, value in passed.items() if key != "skip_check"}
    inspect.signature(getattr(import_module(module), name)).bind(**taken)


def test_arguments_are_passed_by_place_only_in_the_order_of_the_library(
    installed: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantmux_flashinfer.linear import call_order, fp8_entries

    del installed
    for entry in (fp8_entries.CUBLAS, fp8_entries.BLOCK_SM90, fp8_entries.BLOCK_SM90_INSIDE):
        names = fp8_fakes.PLACES[entry.name]
        call_order.require_order(entry, names)

        def swapped(weight: int, input: int, *rest: int) -> None:  # noqa: A002
            del weight, input, rest

        with monkeypatch.context() as patched:
            patched.setattr(call_order, "attribute", lambda _, found=swapped: found)
            with pytest.raises(BuildError, match="another order") as raised:
                call_order.require_order(entry, names)
        assert raised.value.code == "unsupported"


@pytest.mark.parametrize("stem", SPECS)
def test_sources_name_every_file_that_a_linear_imports(stem: str) -> None:
    from pathlib import Path

    import quantmux_flashinfer
    from quantmux.testing.checks.sources import import_closure
    from quantmux_flashinfer.catalog import shared_sources

    spec = SPECS[stem]
    folder = Path(quantmux_flashinfer.__file__).parent
    files = import_closure(spec.load.partition(":")[0], folder)
    if spec.veto is not None:
        files |= import_closure(spec.veto.__module__, folder)
    used = {file.relative_to(folder).as_posix() for file in files}
    assert used <= {*spec.sources, *shared_sources()}
    assert all((folder / name).is_file() for name in spec.sources)


@pytest.mark.parametrize(
    ("stem", "archs"),
    [
        ("bmm_cublas", "89 90 100 103 107 110 120 121"),
        ("bmm_cudnn", "89 90 100 103 107 110"),
        ("bmm_cutlass", "100 103 107 110"),
        ("bmm_cutlass_sm12x", "120 121"),
        ("mm_trtllm_low_latency", "100 103 107"),
        ("mm_cutedsl_low_latency", "100 103 107"),
        ("block_sm90", "90"),
        ("block_sm90_inside", "90"),
        ("block_cutlass", "100 103 107"),
        ("block_cutlass_sm12x", "120 121"),
        ("block_trtllm", "100 103 107"),
    ],
)
def test_a_linear_is_offered_on_these_architectures_and_no_other(stem: str, archs: str) -> None:
    from quantmux.capability.arch import Arch

    every = (75, 80, 86, 87, 89, 90, 100, 103, 107, 110, 120, 121, 130)
    served = [
        sm for sm in every if any(Arch.parse(str(sm)) in a for a in SPECS[stem].capability.arch)
    ]
    assert served == [int(sm) for sm in archs.split()]


def test_only_what_was_run_is_not_experimental() -> None:
    plain = {stem for stem, spec in SPECS.items() if not spec.capability.is_experimental}
    assert plain == {"bmm_cublas", "bmm_cudnn", "block_sm90", INSIDE}


@pytest.mark.parametrize(("n", "k"), [(4096, 7168), (2112, 7168), (7168, 2048), (4096, 4096)])
def test_the_form_that_quantizes_inside_is_expected_first_for_few_tokens(n: int, k: int) -> None:
    config, device = asked(SPECS[INSIDE], n, k), PROFILES["h200"]
    inside, before = (SPECS[stem].estimate for stem in (INSIDE, "block_sm90"))
    assert inside is not None
    assert before is not None
    for m in (1, 16, 31):
        assert inside(config, device, m) <= before(config, device, m)
    assert inside(config, device, 4096) > before(config, device, 4096)


def test_a_release_without_a_handle_of_cublaslt_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from quantmux_flashinfer.linear import fp8_vetoes

    here = PROFILES["h200"].replace(is_present=True)
    config = asked(SPECS["bmm_cublas"], 256, 256)
    for version, is_refused in (
        ("0.6.18.post1", True),
        ("0.6.8", True),
        ("0.7.0", False),
        ("0.7.2.post1", False),
        ("of its own", True),
        (None, False),
    ):
        monkeypatch.setattr(fp8_vetoes, "package_version", lambda _, found=version: found)
        refused = fp8_vetoes.own_cublas_handle(config, here)
        assert (refused is not None) == is_refused, version
        assert fp8_vetoes.own_cublas_handle(config, PROFILES["h200"]) is None
