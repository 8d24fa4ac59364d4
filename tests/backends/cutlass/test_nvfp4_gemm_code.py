"""Machine code of the NVFP4 linear: the instructions it is for, and targets that it refuses.

The compilation of one tile stands for all (a minute, 5 GiB); the evidence in the package has every
tile for every GPU, made by the same `compile_for`.
"""

import ctypes
import re
import subprocess

import pytest
import torch

from quantmux.capability.arch import Arch
from quantmux.capability.device import DeviceProfile
from quantmux.config import Layout, LinearConfig, scheme
from quantmux.errors import BuildError
from quantmux.ops.layouts import place_scales
from quantmux.registry.protocol import CompiledCode
from quantmux.testing.compile_cuda import compile_cuda, find_nvcc
from quantmux_cutlass import instructions
from quantmux_cutlass.build.toolchain import can_build, find_toolchain
from quantmux_cutlass.headers import find_headers
from quantmux_cutlass.instructions import disassembled, require_instruction
from quantmux_cutlass.linear import nvfp4
from quantmux_cutlass.linear.units_nvfp4 import unit, units

from .conftest import CSRC

LAYOUT = r"""
#include "cutlass/detail/sm100_blockscaled_layout.hpp"
#include <cstdint>
using Config = cutlass::detail::Sm1xxBlockScaledConfig<16>;
extern "C" __attribute__((visibility("default"))) int64_t offset_of(
    int of_w, int rows, int width, int row, int group) {
  auto const shape = cute::make_shape(of_w ? 8 : rows, of_w ? rows : 8, width, 1);
  if (of_w) return Config::tile_atom_to_shape_SFB(shape)(row, group * 16, 0);
  return Config::tile_atom_to_shape_SFA(shape)(row, group * 16, 0);
}
"""

NAMES = ('-DQM_NAME="n"', '-DQM_TARGETS="t"', '-DQM_DIGEST="d"')


def require_compiler(one):
    refused = can_build(one, one.targets[0], find_toolchain())
    if refused is not None:
        pytest.skip(refused.text)


def flags(one):
    return [f"-D{name}={value}" for name, value in one.macros]


@pytest.fixture
def small(tmp_path):
    """Give a function that compiles a kernel without any matrix instruction."""
    if find_nvcc() is None:
        pytest.skip("no nvcc")
    source = tmp_path / "small.cu"
    source.write_text("__global__ void add(float* y) { y[threadIdx.x] += 1.0f; }\n")
    if instructions.find_disassembler() is None:
        pytest.skip("no nvdisasm")
    return lambda: compile_cuda(source, "90a")


@pytest.mark.nvcc
def test_code_without_its_instruction_is_no_evidence(small):
    code = small()
    assert require_instruction(code, "FADD") is code
    with pytest.raises(BuildError, match="does not hold the instruction") as caught:
        require_instruction(code, nvfp4.MULTIPLIES["sm_100"])
    assert caught.value.code == "compile"


@pytest.mark.nvcc
def test_what_is_no_machine_code_is_said_to_be_unreadable(small):
    broken = CompiledCode("broken", "sm_100f", small().code[:100], "nvcc", "13.0")
    with pytest.raises(BuildError, match="cannot read broken"):
        disassembled(broken)


def test_without_a_disassembler_code_is_taken_as_it_is(monkeypatch):
    monkeypatch.setattr(instructions, "find_disassembler", lambda: None)
    code = CompiledCode("any", "sm_100f", b"\x7fELF", "nvcc", "13.0")
    assert require_instruction(code, "FADD") is code


def test_names_of_instructions_are_read_whole_and_without_predicates():
    text = """
        /*0c20*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*1690*/              @!UP1 UTCOMMA.2CTA.4X gdesc[UR4], tmem[UR6] ;
        /*4380*/              @P2 LDG.E R0, desc[UR6][R4.64] ;
        /* 0x000fe200078e00ff */
    """
    assert instructions.instructions(text) == [
        "BAR.SYNC.DEFER_BLOCKING",
        "UTCOMMA.2CTA.4X",
        "LDG.E",
    ]


def test_each_family_has_the_instruction_of_its_targets():
    assert {f"sm_{u.targets[0]}".rstrip("f") for u in units()} == set(nvfp4.MULTIPLIES)


@pytest.mark.parametrize("arch", ["100", "103", "120", "121"])
def test_evidence_looks_for_the_instruction_in_every_library_of_an_architecture(monkeypatch, arch):
    asked, looked = [], []

    def compiled(one, on):
        asked.append(one)
        assert str(on) == f"sm{arch}"
        return CompiledCode(one.name, f"sm_{one.targets[0]}", b"", "nvcc", "13.0")

    def looks(code, pattern):
        looked.append((code.name, pattern))
        return code

    monkeypatch.setattr("quantmux_cutlass.compile_ahead.compiled", compiled)
    monkeypatch.setattr(nvfp4, "require_instruction", looks)
    config = LinearConfig(scheme="nvfp4", out_features=4096, in_features=7168)
    made = nvfp4.kernel.compile_for(config, Arch.parse(arch))
    there = DeviceProfile(name="there", title="there", arch=Arch.parse(arch))
    assert tuple(asked) == nvfp4.kernel.units(config, there)
    assert len(made) == len(looked) == (2 if arch.startswith("10") else 1)
    assert {pattern for _, pattern in looked} == {nvfp4.MULTIPLIES[f"sm_{arch[:2]}0"]}


@pytest.mark.nvcc
@pytest.mark.parametrize(("tile", "target"), [("sm120", "100f"), ("sm100", "120f")])
def test_a_tile_of_another_family_does_not_compile(tile, target):
    one = unit(tile)
    require_compiler(one)
    command = [str(find_nvcc()), "-E", "-std=c++17", "-w", "--expt-relaxed-constexpr", *NAMES]
    command += [f"-gencode=arch=compute_{target},code=sm_{target}", *flags(one)]
    command += [f"-I{find_headers()}", f"-I{CSRC}", str(CSRC / "linear" / "nvfp4_gemm.cu")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "this tile is for another family" in done.stderr


@pytest.mark.nvcc
@pytest.mark.slow
def test_cutlass_finds_every_scale_where_this_library_puts_it(tmp_path):
    require_compiler(unit("sm100"))
    source, made = tmp_path / "layout.cu", tmp_path / "layout.so"
    source.write_text(LAYOUT)
    command = [str(find_nvcc()), "-std=c++17", "-w", "--expt-relaxed-constexpr", "-arch=sm_90a"]
    command += ["-shared", "-Xcompiler=-fPIC", f"-I{find_headers()}", str(source), "-o", str(made)]
    subprocess.run(command, check=True)
    offset_of = ctypes.CDLL(str(made)).offset_of
    offset_of.restype = ctypes.c_int64
    operand = scheme("nvfp4_dynamic").weight
    for rows, width in ((1, 32), (5, 96), (128, 64), (130, 1024), (257, 1056)):
        groups = width // 16
        layout = Layout(scales="swizzled_128x4", padded_n=width)
        places = [
            torch.tensor(
                [[offset_of(of_w, rows, width, r, g) for g in range(groups)] for r in range(rows)]
            )
            for of_w in (0, 1)
        ]
        # a byte tells too few scales apart: three readings, each of seven bits of their numbers
        number = torch.arange(rows * groups).view(rows, groups)
        for shift in (0, 7, 14):
            part = (number >> shift & 127).to(torch.uint8)
            lies = place_scales(part.view(torch.float8_e4m3fn), operand, layout, rows)
            for at in places:
                assert torch.equal(lies.view(torch.uint8).flatten()[at], part), (rows, width)


@pytest.mark.nvcc
@pytest.mark.slow
def test_the_tensor_core_multiplies_and_nothing_of_x_is_read_before_the_kernel_waits():
    one = unit("sm100")
    require_compiler(one)
    code = compile_cuda(
        CSRC / "linear" / "nvfp4_gemm.cu",
        "100f",
        [find_headers(), CSRC],
        ["-std=c++17", "-O3", "-w", "-DNDEBUG", "--expt-relaxed-constexpr", *NAMES, *flags(one)],
    )
    text = disassembled(code)
    if text is None:
        pytest.skip("no nvdisasm")
    found = instructions.instructions(text)
    assert any(re.fullmatch(nvfp4.MULTIPLIES["sm_100"], name) for name in found)
    assert not any(name.startswith(("STL", "LDL")) for name in found), "registers are spilled"
    # ACQBULK waits for the kernel in front: once each where tiles are loaded, scheduled, finished
    assert found.count("ACQBULK") == 3
    loads = [place for place, name in enumerate(found) if name.startswith(("LDG", "UTMALDG"))]
    assert found.index("ACQBULK") < min(loads)
    # g_x is the one volatile load, and waits in the threads that read it
    (scalar,) = (place for place, name in enumerate(found) if name == "LDG.E.STRONG.SYS")
    waits = [place for place, name in enumerate(found) if name == "ACQBULK"]
    assert max(w for w in waits if w < scalar) > found.index("PREEXIT")
    plain = [place for place in loads if found[place].startswith("LDG")]
    assert min(plain) > max(w for w in waits if w < scalar)
