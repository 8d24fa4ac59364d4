"""Machine code of the quantizers: the accesses and instructions that their speed rests on."""

import re

import pytest
import triton
import triton.compiler

from quantmux.capability.arch import Arch
from quantmux.config import Block, QuantizeConfig, operand
from quantmux_triton.quantize import fp8_group, tensor, token
from quantmux_triton.quantize.fp8_group_config import tile_ranges


@pytest.fixture
def assembly(monkeypatch):
    """Compile a config for an arch and give the PTX of every variant."""
    made = []
    compile_ = triton.compile

    def spy(*args, **kwargs):
        made.append(compile_(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(triton, "compile", spy)

    def of(kernel, config, arch):
        made.clear()
        kernel.compile_for(config, Arch.parse(arch))
        return [str(compiled.asm["ptx"]) for compiled in made]

    return of


def widest(ptx, access):
    """Give the bytes of the widest global load or store."""
    found = re.findall(rf"{access}\.global(?:\.v(\d))?\.b(\d+)", ptx)
    return max(int(vector or 1) * int(bits) // 8 for vector, bits in found)


KERNELS = {
    "fp8_group128": fp8_group.kernel,
    "fp8_token": token.kernel,
    "fp8_tensor_static": tensor.static_kernel,
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("arch", ["90", "120"])
def test_aligned_rows_are_read_and_written_16_bytes_at_a_time(assembly, name, arch):
    codes = assembly(KERNELS[name], QuantizeConfig(operand=name, n=7168), arch)
    aligned = [ptx for ptx in codes if widest(ptx, "ld") == 16]
    assert len(aligned) == len(codes) - 1, "all but the variant for any strides"
    assert {widest(ptx, "st") for ptx in aligned} == {16}


@pytest.mark.parametrize("name", KERNELS)
def test_fp8_is_made_of_fp32_by_the_instruction_from_sm_90_on_and_by_integers_before(
    assembly, name
):
    # for sm_89 some releases of Triton go by way of fp16, which rounds twice
    config = QuantizeConfig(operand=name, n=7168)
    for arch, expected in (
        ("80", False),
        ("89", False),
        ("90", True),
        ("100", True),
        ("120", True),
    ):
        for ptx in assembly(KERNELS[name], config, arch):
            assert ("cvt.rn.satfinite.e4m3x2.f32" in ptx) is expected, arch
            assert not re.search(r"e4m3x2\.f16x2|cvt\.\w+\.f16", ptx), arch


@pytest.mark.parametrize("name", ["fp8_group128", "fp8_group128_pow2", "fp8_token"])
def test_values_of_16_bits_are_not_divided_one_by_one(assembly, name):
    kernel = token.kernel if name == "fp8_token" else fp8_group.kernel
    codes = assembly(kernel, QuantizeConfig(operand=name, n=7168), "90")
    for ptx in (ptx for ptx in codes if widest(ptx, "ld") == 16):
        made = len(re.findall(r"cvt\.rn\.satfinite\.e4m3x2", ptx)) * 2
        divisions = len(re.findall(r"div\.(?:rn|full|approx)", ptx))
        assert made >= 16
        assert divisions <= made / 4, f"{divisions} divisions for {made} codes"


def test_groups_that_are_known_to_be_padding_are_not_converted(assembly):
    # ptxas 12.8, of Triton 3.6, takes the wrong halves of conversions that it finds to be equal:
    # seen on an H200 as codes in the padding
    wide = operand("fp8_group128_pow2").replace(block=Block(rows=1, cols=256))
    config = QuantizeConfig(operand=wide, n=256, padded_n=512, layout="packed_pow2")
    tile = tile_ranges(2, 256, "packed_pow2", "")[0][1]
    ptx = assembly(fp8_group.kernel, config, "90")[0]
    of_a_thread = tile.rows * tile.groups * 256 // (32 * tile.num_warps)
    assert len(re.findall(r"cvt\.rn\.satfinite\.e4m3x2", ptx)) * 2 <= of_a_thread // 2


def test_nothing_is_flushed_to_zero_and_nothing_divided_approximately(assembly):
    for name, kernel in KERNELS.items():
        for ptx in assembly(kernel, QuantizeConfig(operand=name, n=7168), "90"):
            assert not re.search(r"\.ftz|div\.(full|approx)|rcp\.approx", ptx), name


def test_dependent_launches_wait_before_the_first_access_and_exist_from_sm_90_on(assembly):
    config = QuantizeConfig(operand="fp8_group128", n=7168)
    for ptx in assembly(fp8_group.kernel, config, "90"):
        wait, trigger = ptx.index("griddepcontrol.wait"), ptx.index("griddepcontrol.launch")
        first = min(ptx.index("ld.global"), ptx.index("st.global"))
        assert wait < trigger < first
    for ptx in assembly(fp8_group.kernel, config, "89"):
        assert "griddepcontrol" not in ptx
