"""The host's side of the NVFP4 quantizers: calls, bad input, specs, the mirror of the C struct."""

from __future__ import annotations

import ctypes
import re
from typing import TYPE_CHECKING

import pytest
import torch
from tests.backends.cutlass.nvfp4_host import CSRC, HOST, HostQuantizer, compiled_for_host

from quantmux.capability.arch import Arch
from quantmux.capability.device import DeviceProfile
from quantmux.config import LinearConfig, QuantizeConfig
from quantmux.config.layouts import Layout
from quantmux.errors import (
    ConfigError,
    DtypeError,
    InputError,
    LaunchError,
    LayoutError,
    ShapeError,
)
from quantmux.registry.kernel_spec import KernelSpec
from quantmux_cutlass import abi
from quantmux_cutlass.quantize.nvfp4 import dynamic, kernel
from quantmux_cutlass.quantize.nvfp4_abi import Problem
from quantmux_cutlass.quantize.self_test import disagreement
from quantmux_cutlass.quantize.specs import specs
from quantmux_cutlass.quantize.units import NVFP4

if TYPE_CHECKING:
    from pathlib import Path

G = torch.tensor([0.02])


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> HostQuantizer:
    return compiled_for_host(tmp_path_factory.mktemp("nvfp4-host"))


def config_of(operand: str = "nvfp4_static", *, rows: int = 1) -> QuantizeConfig:
    layout = Layout(scales="swizzled_128x4", padded_n=64, padded_m_multiple=rows)
    return QuantizeConfig(operand=operand, n=50, layout=layout, in_dtype="bf16")


def matrix(m: int = 5) -> torch.Tensor:
    return torch.randn(m, 50, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)


@pytest.mark.nvcc
def test_a_given_global_scale_takes_one_launch_and_a_computed_one_two(
    library: HostQuantizer,
) -> None:
    calls, launches = library.calls, library.launches
    library.bound(config_of())(matrix(), global_scale=G)
    assert (library.calls, library.launches) == (calls + 1, launches + 1)
    library.bound(config_of("nvfp4"))(matrix())
    assert (library.calls, library.launches) == (calls + 2, launches + 3)
    library.bound(config_of("nvfp4"))(matrix(), global_scale=G)
    assert (library.calls, library.launches) == (calls + 3, launches + 4)
    declared = {spec.id: spec.capability.launches for spec in specs()}
    assert declared == {"cutlass/quantize_nvfp4": 1, "cutlass/quantize_nvfp4_dynamic": 2}


@pytest.mark.nvcc
def test_no_rows_launch_nothing_and_still_have_a_global_scale(library: HostQuantizer) -> None:
    calls = library.calls
    none = matrix(0)
    for operand, given, g in (("nvfp4", None, 1.0), ("nvfp4_static", G, 0.02)):
        made = library.bound(config_of(operand))(none, global_scale=given)
        assert made.data.shape == (0, 32)
        assert made.scales.shape == (0, 4)
        assert made.global_scale is not None
        assert made.global_scale.tolist() == [pytest.approx(g)]
    assert library.calls == calls


@pytest.mark.nvcc
def test_wrong_arguments_are_named(library: HostQuantizer) -> None:
    run, x = library.bound(config_of()), matrix()
    with pytest.raises(InputError, match="global_scale"):
        run(x)
    with pytest.raises(InputError, match="static operands"):
        run(x, global_scale=G, scale=G)
    with pytest.raises(ShapeError, match="one element"):
        run(x, global_scale=torch.ones(2))
    with pytest.raises(DtypeError, match="fp32"):
        run(x, global_scale=G.double())
    with pytest.raises(ShapeError, match="width"):
        run(x[:, :48], global_scale=G)
    with pytest.raises(ShapeError, match="2 dimensions"):
        run(x[0], global_scale=G)
    with pytest.raises(DtypeError, match="bf16"):
        run(x.half(), global_scale=G)
    with pytest.raises(InputError, match="is on"):
        run(x, global_scale=G.to("meta"))


@pytest.mark.nvcc
def test_an_output_that_is_another_is_refused(library: HostQuantizer) -> None:
    run, x = library.bound(config_of()), matrix()
    right = run(x, global_scale=G)
    assert run(x, global_scale=G, out=right) is right
    more = library.bound(config_of())(matrix(6), global_scale=G)
    with pytest.raises(ShapeError):
        run(x, global_scale=G, out=more)
    other = library.bound(config_of(rows=8))(x, global_scale=G)
    with pytest.raises(LayoutError):
        run(x, global_scale=G, out=other)


def test_a_matrix_on_another_kind_of_device_is_refused_before_the_library_is_opened() -> None:
    from quantmux_cutlass.linear.choice import Choice
    from quantmux_cutlass.quantize.bound import Bound

    gpu = DeviceProfile(name="h200", title="H200", arch=Arch.parse("90"))

    def never(index: int) -> None:
        raise AssertionError(index)

    run = Bound(config_of(), gpu, never, Choice(NVFP4)).function()
    with pytest.raises(InputError, match="bound for cuda") as caught:
        run(matrix(), global_scale=G)
    assert caught.value.code == "device"


@pytest.mark.nvcc
@pytest.mark.parametrize(
    ("field", "value", "status"),
    [
        ("bytes", 4, 6),
        ("abi", abi.VERSION + 1, 6),
        ("n", 0, 4),
        ("n", -16, 4),
        ("padded_n", 40, 4),
        ("padded_n", 2**26, 4),
        ("rows", 0, 4),
        ("in_dtype", 3, 5),
        ("layout", -1, 5),
        ("device", -1, 5),
        ("sms", 0, 5),
        ("option", (14, 0), 5),
        ("option", (6, 0), 5),
        ("option", (0, 100), 5),
        ("option", (0, 260), 5),
        ("option", (0, 512), 5),
    ],
)
def test_a_plan_refuses_what_no_kernel_can_do(
    library: HostQuantizer, field: str, value: object, status: int
) -> None:
    good = {"bytes": ctypes.sizeof(Problem), "abi": abi.VERSION, "n": 50, "padded_n": 64}
    good |= {"rows": 1, "sms": 132}
    memory = ctypes.create_string_buffer(library.plan_bytes)
    assert library.plan(ctypes.addressof(Problem(**good)), ctypes.addressof(memory)) == 0
    bad = Problem(**(good | {field: value}))
    assert library.plan(ctypes.addressof(bad), ctypes.addressof(memory)) == status


@pytest.mark.nvcc
def test_a_plan_needs_both_pointers_and_an_aligned_place(library: HostQuantizer) -> None:
    problem = Problem(ctypes.sizeof(Problem), abi.VERSION, 50, 64, 1, sms=132)
    memory = ctypes.create_string_buffer(library.plan_bytes + 8)
    assert library.plan(None, ctypes.addressof(memory)) == 1
    assert library.plan(ctypes.addressof(problem), None) == 1
    assert library.plan(ctypes.addressof(problem), ctypes.addressof(memory) + 4) == 2


@pytest.mark.nvcc
def test_a_call_refuses_what_it_cannot_read_or_write(library: HostQuantizer) -> None:
    problem = Problem(ctypes.sizeof(Problem), abi.VERSION, 50, 64, 1, layout=1, sms=132)
    memory = ctypes.create_string_buffer(library.plan_bytes)
    plan = ctypes.addressof(memory)
    assert library.plan(ctypes.addressof(problem), plan) == 0
    x, made = matrix(), torch.zeros(1)
    data, scales = torch.zeros(5, 32, dtype=torch.uint8), torch.zeros(512, dtype=torch.uint8)
    good = [plan, x.data_ptr(), 50, 1, data.data_ptr(), scales.data_ptr(), G.data_ptr()]
    good += [made.data_ptr(), None, 5, None]

    def status(**other: object) -> int:
        places = {"plan": 0, "x": 1, "row": 2, "column": 3, "data": 4, "scales": 5, "given": 6}
        places |= {"made": 7, "partial": 8, "m": 9}
        arguments: list[object] = list(good)
        for name, value in other.items():
            arguments[places[name]] = value
        return int(library.handle.qm_quantize(*arguments))

    assert status() == 0
    for name in ("plan", "x", "data", "scales", "given", "made"):
        assert status(**{name: None}) == 1, name
    for name in ("x", "given", "made"):
        assert status(**{name: 0x1001}) == 2, name
    assert status(given=None, partial=0x1002) == 2
    assert status(row=-50) == 3
    assert status(column=-1) == 3
    assert status(m=-1) == 4
    assert status(m=2**31) == 4
    assert status(m=0) == 0


@pytest.mark.nvcc
def test_a_refusal_of_the_library_is_a_typed_error(library: HostQuantizer) -> None:
    wide = Layout(scales="row_major", padded_n=2**26)
    config = QuantizeConfig(operand="nvfp4", n=2**26, layout=wide, in_dtype="bf16")
    run = library.bound(config)
    with pytest.raises(LaunchError, match="qm_plan of nvfp4_quantize refused"):
        run(torch.empty(1, 2**26, dtype=torch.bfloat16))


def test_the_mirror_has_the_fields_of_the_c_struct() -> None:
    text = (CSRC / "quantize" / "nvfp4_call.cuh").read_text(encoding="utf-8")
    body = text.partition("struct QmQuantizeProblem {")[2].partition("};")[0]
    named = re.findall(r"^\s*u?int32_t ([^;]+);", body, flags=re.MULTILINE)
    fields = [name.strip() for line in named for name in line.split(",")]
    mirror = [name for name, *_ in Problem._fields_]
    plain = [field.partition("[")[0] for field in fields]
    assert ["in_dtype" if name == "in" else name for name in plain] == mirror
    assert ctypes.sizeof(Problem) == 4 * (len(mirror) - 1 + 2)


@pytest.mark.nvcc
def test_the_mirror_is_as_large_as_the_c_struct(library: HostQuantizer) -> None:
    assert library.handle.qm_sizeof() == ctypes.sizeof(Problem)


def test_configs_of_other_ops_are_refused() -> None:
    linear = LinearConfig(in_features=64, out_features=64, scheme="fp8_channel_token")
    for quantizer in (kernel, dynamic):
        with pytest.raises(ConfigError, match="LinearConfig"):
            quantizer.bind(linear, HOST)  # type: ignore[arg-type] - the mistake


def test_specs_are_valid_and_name_every_file_of_their_own() -> None:
    package = CSRC.parent
    for spec in specs():
        assert isinstance(spec, KernelSpec)
        spec.check("cutlass")
        own = {f"quantize/{f.name}" for f in (package / "quantize").glob("*.py")}
        unused = {"quantize/__init__.py", "quantize/specs.py", "quantize/self_test.py"}
        assert own - unused <= set(spec.sources)
        assert all((package / source).is_file() for source in spec.sources)


@pytest.mark.nvcc
@pytest.mark.slow
def test_the_self_test_refuses_a_library_that_rounds_otherwise(tmp_path: Path) -> None:
    wrong = compiled_for_host(tmp_path, "-DQM_INVERSE_ERROR=3000000")
    problem = disagreement(wrong, HOST)  # type: ignore[arg-type] - a double of the library
    assert problem is not None
    assert "reference" in problem
