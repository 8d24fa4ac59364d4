"""Machine code of the kernels that make NVFP4: what their speed rests on, on every architecture."""

import re

import pytest
import triton
import triton.compiler

from quantmux.capability.arch import Arch
from quantmux.config import QuantizeConfig, SiluMulQuantizeConfig
from quantmux_triton.quantize import nvfp4
from quantmux_triton.silu_mul_quantize import nvfp4 as silu

ARCHS = ("80", "89", "90", "100", "103", "120")


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


def _config(**changes):
    fields = {"operand": "nvfp4_static", "n": 7152, "padded_n": 7168, "layout": "swizzled_128x4"}
    return QuantizeConfig(**{**fields, **changes})


@pytest.mark.parametrize("arch", ARCHS)
def test_e2m1_is_made_by_the_instruction_from_sm_100_on_and_by_additions_before(assembly, arch):
    for ptx in assembly(nvfp4.kernel, _config(), arch):
        is_there = "cvt.rn.satfinite.e2m1x2.f32" in ptx
        assert is_there is (int(arch) >= 100)
        assert is_there or "prmt.b32" in ptx


@pytest.mark.parametrize("layout", ["row_major", "swizzled_128x4", "swizzled_8x4"])
@pytest.mark.parametrize(
    ("kernel", "kind", "loads"),
    [(nvfp4.kernel, QuantizeConfig, 2), (silu.kernel, SiluMulQuantizeConfig, 4)],
)
def test_a_thread_reads_and_writes_whole_blocks_and_asks_no_other(
    assembly, layout, kernel, kind, loads
):
    config = kind(operand="nvfp4_static", n=7152, padded_n=7168, layout=layout)
    *aligned, any_strides = assembly(kernel, config, "90")
    assert aligned
    for ptx in aligned:
        wide = re.findall(r"ld\.global\.v4\.b32", ptx)
        codes = re.findall(r"st\.global\.v2\.b32", ptx)
        assert len(wide) >= loads
        assert len(wide) % loads == 0
        assert len(codes) == 2 * len(wide) // loads, "of rows there are, and of padded ones"
        assert not re.search(r"bar\.sync|shfl|\.shared", ptx)
    assert not re.search(r"ld\.global\.v4\.b32", any_strides)


def test_a_usual_global_scale_costs_one_division_by_instruction_a_program(assembly):
    for ptx in assembly(nvfp4.kernel, _config(), "90")[:2]:
        blocks = len(re.findall(r"ld\.global\.v4\.b32", ptx)) // 2
        # 1 / g, and the two of a block for an extreme one
        assert len(re.findall(r"div\.rn\.f32", ptx)) == 1 + 2 * blocks


def test_dependent_launches_wait_before_the_first_access_and_exist_from_sm_90_on(assembly):
    config = _config(operand="nvfp4")
    for ptx in assembly(nvfp4.dynamic, config, "90"):
        wait, trigger = ptx.index("griddepcontrol.wait"), ptx.index("griddepcontrol.launch")
        first = min(ptx.index("ld.global"), ptx.index("st.global"))
        assert wait < trigger < first
    for ptx in assembly(nvfp4.dynamic, config, "89"):
        assert "griddepcontrol" not in ptx
