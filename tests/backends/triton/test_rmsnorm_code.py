"""The machine code of RMSNorm into fp8, compiled for GPUs that need not be here."""

import re

import pytest
import triton

from quantmux.capability.arch import Arch
from quantmux.config import RmsNormQuantizeConfig
from quantmux_triton.rmsnorm_quantize import fp8_group, row
from quantmux_triton.rmsnorm_quantize.fp8_group_kernel import rmsnorm_fp8_group_kernel
from quantmux_triton.rmsnorm_quantize.row_kernel import rmsnorm_row_kernel
from quantmux_triton.rmsnorm_quantize.tiles_config import HELD, row_tile

KERNELS = {
    "fp8_group128": fp8_group.kernel,
    "fp8_token": row.kernel,
    "fp8_tensor_static": row.kernel,
}


@pytest.fixture
def assembly(monkeypatch):
    """Compile a config for an arch and give the text of every variant, the aligned one first."""
    made = []
    compile_ = triton.compile

    def spy(*args, **kwargs):
        made.append(compile_(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(triton, "compile", spy)

    def of(name, arch, n=7168, **fields):
        made.clear()
        config = RmsNormQuantizeConfig(operand=name, n=n, **fields)
        codes = KERNELS[name.removesuffix("_pow2")].compile_for(config, Arch.parse(arch))
        assert all(code.code for code in codes)
        return [str(compiled.asm.get("ptx") or compiled.asm["amdgcn"]) for compiled in made]

    return of


def accesses(ptx, access):
    """Give the bytes of every global load or store."""
    found = re.findall(rf"{access}\.global(?:\.v(\d))?\.b(\d+)", ptx)
    return [int(vector or 1) * int(bits) // 8 for vector, bits in found]


@pytest.mark.parametrize("kernel", [rmsnorm_fp8_group_kernel, rmsnorm_row_kernel])
def test_no_integer_and_no_address_makes_a_variant(kernel):
    pointers = {"x", "weight", "data", "scales", "given"}
    for parameter in kernel.params:
        if parameter.is_constexpr or parameter.name in ("norm_eps", "eps", "scale_ub"):
            continue
        assert parameter.do_not_specialize or parameter.do_not_specialize_on_alignment
        assert (parameter.name in pointers) == (not parameter.do_not_specialize), parameter.name


@pytest.mark.parametrize("name", KERNELS)
def test_a_row_and_its_weight_are_read_once_and_sixteen_bytes_at_a_time(assembly, name):
    aligned, any_strides = assembly(name, "90")
    # 32 values of x and of the weight for each of 256 threads
    assert [size for size in accesses(aligned, "ld") if size > 4] == [16] * 8
    assert [size for size in accesses(aligned, "st") if size > 4] == [16] * 2
    assert 2 in accesses(any_strides, "ld")
    assert 1 in accesses(any_strides, "st")


@pytest.mark.parametrize("name", KERNELS)
def test_not_even_the_weight_is_read_before_the_launch_ahead_has_ended(assembly, name):
    # it is an argument of the call: a linear of ours, which lets the next launch start early, may
    # be writing it (decision 0010)
    for ptx in assembly(name, "90"):
        wait, trigger = ptx.index("griddepcontrol.wait"), ptx.index("griddepcontrol.launch")
        first = min(ptx.index("ld.global"), ptx.index("st.global"))
        assert wait < trigger < first
    for ptx in assembly(name, "89"):
        assert "griddepcontrol" not in ptx


@pytest.mark.parametrize("name", KERNELS)
def test_fp8_is_made_by_the_instruction_from_sm_90_on_and_by_integers_before(assembly, name):
    for arch, expected in (("80", False), ("89", False), ("90", True), ("100", True)):
        for ptx in assembly(name, arch):
            assert ("cvt.rn.satfinite.e4m3x2.f32" in ptx) is expected, arch
            assert not re.search(r"e4m3x2\.f16x2|cvt\.\w+\.f16", ptx), arch


@pytest.mark.parametrize("name", ["fp8_group128", "fp8_group128_pow2", "fp8_token"])
def test_nothing_is_divided_value_by_value_nor_in_fp64(assembly, name):
    for ptx in assembly(name, "90"):
        assert len(re.findall(r"div\.rn\.f32", ptx)) <= 1
        assert not re.search(r"div\.(full|approx)|(div|sqrt|rcp)\S*\.f64", ptx)


def test_it_compiles_for_amd_without_its_own_kind_of_fp8(assembly):
    for name in KERNELS:
        for text in assembly(name, "gfx942"):
            assert not re.search(r"v_cvt\w*fp8", text)


@pytest.mark.parametrize("n", [1, 128, 1536, 4096, 7168, HELD, HELD + 1, 10 * HELD])
def test_tiles_hold_a_row_up_to_a_bound_and_32_values_a_thread(n):
    for group in (1, 16, 128, 256):
        tile = row_tile(n, group)
        assert (tile.block >= n) == (n <= HELD)
        assert tile.block >= 4 * group or group == 1
        assert tile.num_warps <= 32
        assert tile.rows * tile.block <= max(1024 * tile.num_warps, 2048)
