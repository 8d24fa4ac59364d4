"""What a bound linear computes, through the library of the host, against the op's reference."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from quantmux.config import LinearConfig, QuantizeConfig
from quantmux.config.layouts import round_up
from quantmux.ops.linear.reference import linear_exact
from quantmux.ops.linear.spec import make_inputs
from quantmux.ops.linear.tolerance import compare, linear_magnitude
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.spec import Case
from quantmux_cutlass import abi, native
from quantmux_cutlass.linear import self_test
from quantmux_cutlass.linear.choice import M_SAMPLES, Choice
from quantmux_cutlass.linear.consumer import CutlassLinear
from quantmux_cutlass.linear.padding import padded_k16

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux.capability.device import DeviceProfile
    from quantmux.ops.quantized import LinearWeights, QuantizedTensor

    Problem = tuple[LinearConfig, QuantizedTensor, LinearWeights]

KIND = {"fp8_tensor": "row", "fp8_channel_token": "row", "fp8_block128": "block", "nvfp4": "nvfp4"}
TMA = 1


def problem(
    scheme: str, m: int, n: int, k: int, *, layout: str | None = None, **more: Any
) -> Problem:
    """Give a config, an x as the join would have it made, and canonical weights."""
    config = LinearConfig(in_features=k, out_features=n, scheme=scheme, **more)
    x, weights = make_inputs(Case(config, m), "cpu", seed=7).args
    operand = config.scheme.activation
    assert operand is not None
    base = 32 if operand.is_nvfp4 else 16
    if k % base and operand.block.kind == "group" and not operand.is_nvfp4:
        base = 128
    producer = QuantizeConfig(
        operand=operand, n=k, layout=layout, padded_n=round_up(k, base) if k % base else None
    )
    given = {} if operand.dynamic else {"scale": weights.input_scale}
    if operand.global_scale == "static":
        given = {"global_scale": weights.input_global_scale}
    return config, quantize(x, producer, **given), weights


def kernel_of(unit: Any, *options: int, row_multiple: int = 8, **more: Any) -> CutlassLinear:
    return CutlassLinear(
        "test", lambda *_: Choice(unit, options), row_multiple=row_multiple, **more
    )


def judge(y: torch.Tensor, config: LinearConfig, q: QuantizedTensor, w: LinearWeights) -> None:
    size = linear_magnitude(q, w, config)
    compare(y, linear_exact(q, w, config), config=config, magnitude=size).require("y")


@pytest.mark.parametrize("scheme", ["fp8_tensor", "fp8_channel_token", "fp8_block128"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("out_dtype", ["bf16", "fp16"])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 16, 16), (3, 13, 137), (5, 130, 272)])
def test_a_linear_agrees_with_the_reference_whatever_n_and_k(
    host_libraries: Callable[..., Any],
    host: DeviceProfile,
    host_unit: Callable[..., Any],
    scheme: str,
    bias: bool,
    out_dtype: str,
    m: int,
    n: int,
    k: int,
) -> None:
    del host_libraries
    config, q, weights = problem(scheme, m, n, k, bias=bias, out_dtype=out_dtype)
    for multiple, option in ((8, TMA), (1, 0)):
        kernel = kernel_of(host_unit(KIND[scheme]), option, row_multiple=multiple)
        fn = kernel.bind(config, kernel.prepare(weights, config, host), host)
        y = fn(q)
        assert y.shape == (m, n)
        assert y.stride() == (round_up(n, multiple), 1)
        judge(y, config, q, weights)


@pytest.mark.parametrize("layout", ["row_major", "col_major", "col_major_aligned4"])
@pytest.mark.parametrize("k", [256, 272, 200])
def test_block_scales_are_read_as_their_layout_says(
    host_libraries: Callable[..., Any],
    host: DeviceProfile,
    host_unit: Callable[..., Any],
    layout: str,
    k: int,
) -> None:
    del host_libraries
    config, q, weights = problem("fp8_block128", 5, 24, k, layout=layout)
    kernel = kernel_of(host_unit("block"))
    fn = kernel.bind(config, kernel.prepare(weights, config, host), host)
    judge(fn(q), config, q, weights)


def test_one_layer_reads_several_layouts_of_x_in_turn(
    host_libraries: Callable[..., Any], host: DeviceProfile, host_unit: Callable[..., Any]
) -> None:
    library = host_libraries("block")
    layouts = ("row_major", "col_major", "col_major_aligned4", "col_major_aligned4")
    made = [problem("fp8_block128", 5, 24, 256, layout=layout) for layout in layouts]
    config, _, weights = made[0]
    kernel = kernel_of(host_unit("block"))
    before = library.plans
    fn = kernel.bind(config, kernel.prepare(weights, config, host), host)
    for _, q, _ in (*made, *made):
        judge(fn(q), config, q, weights)
    assert library.plans - before == 3  # equal layouts are one, though other objects


def test_nvfp4_goes_through_with_both_global_scales(
    host_libraries: Callable[..., Any], host: DeviceProfile, host_unit: Callable[..., Any]
) -> None:
    from quantmux_cutlass.linear.nvfp4_weights import swizzled_weights

    del host_libraries
    for n, k in ((16, 64), (13, 48)):
        config, q, weights = problem("nvfp4", 5, n, k, layout="swizzled_128x4", bias=True)
        kernel = kernel_of(host_unit("nvfp4"), TMA, prepare=swizzled_weights)
        fn = kernel.bind(config, kernel.prepare(weights, config, host), host)
        out = torch.full((5, round_up(n, 8)), torch.nan, dtype=torch.bfloat16)[:, :n]
        judge(fn(q), config, q, weights)
        assert torch.equal(fn(q, out=out), fn(q))


def test_weights_of_another_backend_are_read_where_they_are_canonical(
    host_libraries: Callable[..., Any], host: DeviceProfile, host_unit: Callable[..., Any]
) -> None:
    from quantmux_torch.padding import shared

    del host_libraries
    config, q, weights = problem("fp8_channel_token", 3, 24, 144, bias=True)
    kernel = kernel_of(host_unit("row"))
    assert kernel.prepare(weights, config, host).weight_layout == "canonical"
    judge(kernel.bind(config, shared(weights, 24, 144), host)(q), config, q, weights)


def test_a_bias_of_fewer_bits_is_widened_and_one_not_asked_for_is_not_added(
    host_libraries: Callable[..., Any], host: DeviceProfile, host_unit: Callable[..., Any]
) -> None:
    del host_libraries
    config, q, weights = problem("fp8_channel_token", 3, 24, 144, bias=True)
    assert weights.bias is not None
    narrow = replace(weights, bias=weights.bias.to(torch.bfloat16))
    kernel = kernel_of(host_unit("row"))
    fn = kernel.bind(config, kernel.prepare(narrow, config, host), host)
    judge(fn(q), config, q, narrow)
    plain = config.replace(bias=False)
    fn = kernel.bind(plain, kernel.prepare(narrow, plain, host), host)
    judge(fn(q), plain, q, replace(weights, bias=None))


def test_the_choice_of_m_decides_library_and_options(
    host_libraries: Callable[..., Any], host: DeviceProfile, host_unit: Callable[..., Any]
) -> None:
    del host_libraries
    asked: list[int] = []

    def choose(config: LinearConfig, device: DeviceProfile, m: int) -> Choice:
        assert (config.n, device.name) == (24, "cpu")
        asked.append(m)
        return Choice(host_unit("row", "few" if m <= 16 else "many"), (int(m > 16),))

    kernel = CutlassLinear("test", choose, row_multiple=8, m_max=64)
    config, q, weights = problem("fp8_channel_token", 17, 24, 144)
    units = kernel.units(config, host)
    assert [unit.name for unit in units] == ["row_few", "row_many"]
    assert set(asked) == {m for m in M_SAMPLES if m <= 64}
    fn = kernel.bind(config, kernel.prepare(weights, config, host), host)
    asked.clear()
    for _ in range(3):
        judge(fn(q), config, q, weights)
    assert asked == [17]  # once for an M


def test_a_call_opens_no_library_that_bind_did_not(
    host_libraries: Callable[..., Any], host: DeviceProfile, host_unit: Callable[..., Any]
) -> None:
    host_libraries("row")

    def choose(config: LinearConfig, device: DeviceProfile, m: int) -> Choice:
        del config, device
        return Choice(host_unit("row", "seen" if m in M_SAMPLES else "never-seen"))

    kernel = CutlassLinear("test", choose)
    config, q, weights = problem("fp8_channel_token", 5, 24, 144)
    assert [u.name for u in kernel.units(config, host)] == ["row_seen"]
    fn = kernel.bind(config, kernel.prepare(weights, config, host), host)
    judge(fn(q), config, q, weights)  # 5 is no sample: what serves 8 serves it


def test_plans_are_kept_by_choice_and_not_by_m(
    host_libraries: Callable[..., Any], host: DeviceProfile, host_unit: Callable[..., Any]
) -> None:
    library = host_libraries("row")
    kernel = kernel_of(host_unit("row"))
    config, q, weights = problem("fp8_channel_token", 9, 24, 144)
    before = library.plans
    fn = kernel.bind(config, kernel.prepare(weights, config, host), host)
    assert library.plans - before == 1  # nothing is left to be made while a stream is captured
    for m in range(10):
        part = replace(
            q, data=q.data[:m], scales=q.scales[:m], logical_shape=(m, q.logical_shape[1])
        )
        y = fn(part)
        assert y.shape == (m, 24)
        if m:
            judge(y, config, part, weights)
    assert library.plans - before == 1


@pytest.mark.parametrize(
    ("kind", "scheme", "k"), [("row", "fp8_channel_token", 272), ("block", "fp8_block128", 272)]
)
def test_the_self_test_passes_a_right_library_and_names_a_wrong_one(
    host_library: Callable[..., Any],
    host: DeviceProfile,
    host_unit: Callable[..., Any],
    kind: str,
    scheme: str,
    k: int,
) -> None:
    library = replace(host_library(kind), unit=host_unit(kind, "right", ((0,), (1,))))
    calls = library.calls
    assert self_test.disagreement(library, host, scheme, k) is None
    assert library.calls - calls == 8  # 2 options, 2 formats, 2 Ms

    def untouched(*_: Any) -> int:
        return 0

    library.run = untouched  # success, and memory as it was: code of another architecture
    problem = self_test.disagreement(library, host, scheme, k)
    assert "600 of 600 are wrong, the first at [0, 0]" in (problem or "")
    refuses = replace(library, unit=host_unit(kind, "refuses", ((0, 0, 0, 0, 0, 5),)))
    assert self_test.disagreement(refuses, host, scheme, k) == "it refused everything it was asked"
    broken = replace(library, unit=host_unit(kind, "broken", ((0, 0, 0, 0, 0, 8),)))
    assert "TMA descriptor" in (self_test.disagreement(broken, host, scheme, k) or "")


def test_one_wrong_element_fails_the_self_test(
    host_library: Callable[..., Any], host: DeviceProfile, host_unit: Callable[..., Any]
) -> None:
    import ctypes

    library = replace(host_library("row"), unit=host_unit("row"))
    right = library.run

    def run(plan: int, x: int, scales: int, y: int, m: int, stream: int) -> int:
        status = int(right(plan, x, scales, y, m, stream))
        last = ctypes.c_uint16.from_address(y + 2 * (m * 200 - 1))
        last.value ^= 0x0010  # a sixteenth of it
        return status

    library.run = run
    found = self_test.disagreement(library, host, "fp8_channel_token", 272)
    assert found is not None
    assert "1 of 600 are wrong, the first at [2, 199]" in found


def test_the_struct_that_ctypes_fills_is_the_one_that_the_library_reads(
    host_library: Callable[..., Any],
) -> None:
    import ctypes

    handle = host_library("row").handle
    names = [field[0] for field in abi.Problem._fields_]
    assert [handle.qm_offset(i) for i in range(len(names))] == [
        getattr(abi.Problem, name).offset for name in names
    ]
    assert handle.qm_offset(len(names)) == ctypes.c_size_t(-1).value  # it has no more
    assert handle.qm_sizeof() == ctypes.sizeof(abi.Problem)


def test_prepared_weights_of_a_padded_k_cannot_be_mistaken_for_canonical_ones(
    host: DeviceProfile,
) -> None:
    config, _, weights = problem("fp8_channel_token", 3, 24, 137)
    assert padded_k16(weights, config, host).weight_layout == "cutlass:padded_k16"


@pytest.mark.parametrize(
    ("kernel_allows", "choice_allows"), [(True, True), (True, False), (False, True)]
)
def test_launches_overlap_only_where_kernel_and_choice_allow_it(
    host_libraries: Callable[..., Any],
    host: DeviceProfile,
    host_unit: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    kernel_allows: bool,
    choice_allows: bool,
) -> None:
    del host_libraries
    asked: list[int] = []
    make = native.Plan.__init__

    def init(plan: native.Plan, library: Any, given: abi.Problem, keep: Any = ()) -> None:
        asked.append(given.pdl)
        make(plan, library, given, keep)

    monkeypatch.setattr(native.Plan, "__init__", init)
    choice = Choice(host_unit("row"), pdl=choice_allows)
    kernel = CutlassLinear("test", lambda *_: choice, pdl=kernel_allows)
    config, q, weights = problem("fp8_channel_token", 3, 24, 144)
    kernel.bind(config, kernel.prepare(weights, config, host), host)(q)
    assert asked == [int(kernel_allows and choice_allows)]
