"""What kernels become on GPUs that are not here: the instructions in the PTX, where one matters."""

import os
import re

import pytest
import triton

from quantmux.capability.arch import Arch
from quantmux.config import LinearConfig, QuantizeConfig
from quantmux.registry.default import default_registry
from quantmux.testing.cell import Verdict
from quantmux.testing.compile_cells import compile_cells, run_compile_cell
from quantmux.testing.compile_elf import code_problem, cubin_sm, hsaco_processor
from quantmux_triton.interpreter import interpreting

pytestmark = pytest.mark.skipif(interpreting(), reason="this process interprets")

ALL = "TRITON_TESTS_ALL_ARCHS"

CONFIGS = {
    "fp8": QuantizeConfig(operand="fp8_group128", n=7168, layout="row_major"),
    "nvfp4": QuantizeConfig(operand="nvfp4_static", n=7168, layout="swizzled_128x4"),
    "w8a8": LinearConfig(in_features=7168, out_features=4096, scheme="fp8_channel_token"),
    "block": LinearConfig(in_features=7168, out_features=4096, scheme="fp8_block128"),
    "int8": LinearConfig(in_features=7168, out_features=4096, scheme="int8_channel_token"),
}

TO_E4M3 = r"cvt\.rn\.satfinite\.e4m3x2\.f32"
TO_E2M1 = r"cvt\.rn\.satfinite\.e2m1x2\.f32"
WAIT = r"griddepcontrol\.wait"
WGMMA_FP8 = r"wgmma\.mma_async\S*\.e4m3\.e4m3"
WGMMA_S8 = r"wgmma\.mma_async\S*\.s8\.s8"
TCGEN05 = r"tcgen05\.mma"
MMA_FP8 = r"mma\.sync\S*\.e4m3\.e4m3"
MMA_S8 = r"mma\.sync\S*\.s8\.s8"
TMA = r"cp\.async\.bulk\.tensor"

EXPECTED = [
    ("quantize_fp8_group", "fp8", "80", (), (TO_E4M3, "e4m3", WAIT)),
    # Triton 3.6 gets to fp8 by way of fp16 there, and rounds twice
    ("quantize_fp8_group", "fp8", "89", (), ("e4m3", "f16", WAIT)),
    ("quantize_fp8_group", "fp8", "90", (TO_E4M3, WAIT), ()),
    ("quantize_nvfp4", "nvfp4", "80", (), ("e4m3x2", "e2m1x2")),
    ("quantize_nvfp4", "nvfp4", "89", (), ("e4m3x2", "e2m1x2")),
    ("quantize_nvfp4", "nvfp4", "90", (TO_E4M3, WAIT), ("e2m1x2",)),
    ("quantize_nvfp4", "nvfp4", "100", (TO_E2M1,), ()),
    ("quantize_nvfp4", "nvfp4", "120", (TO_E2M1,), ()),
    ("linear_fp8", "w8a8", "89", (MMA_FP8,), ("wgmma", "tcgen05", "griddepcontrol")),
    ("linear_fp8", "w8a8", "90", (WGMMA_FP8, TMA), ("tcgen05",)),
    ("linear_fp8", "w8a8", "100", (TCGEN05, TMA), ("wgmma",)),
    ("linear_fp8", "w8a8", "120", (MMA_FP8,), ("wgmma", "tcgen05")),
    ("linear_fp8_block", "block", "90", (r"wgmma\.mma_async",), ("tcgen05",)),
    ("linear_fp8_small_m", "w8a8", "90", (WGMMA_FP8, WAIT), ()),
    ("linear_fp8_block_small_m", "block", "90", (WGMMA_FP8, WAIT), ()),
    ("linear_int8", "int8", "80", (MMA_S8,), ()),
    ("linear_int8", "int8", "90", (WGMMA_S8,), ()),
]


@pytest.fixture
def assembly(monkeypatch):
    """The PTX of everything that is compiled in the test."""
    found = []
    compile_ = triton.compile

    def keep(*args, **keywords):
        compiled = compile_(*args, **keywords)
        found.append(str(compiled.asm.get("ptx") or compiled.asm.get("amdgcn")))
        return compiled

    monkeypatch.setattr(triton, "compile", keep)
    return found


def compiled_for(kernel, config, arch):
    kernel = default_registry().load_kernel(f"triton/{kernel}")
    return kernel.compile_for(CONFIGS[config], Arch.parse(arch))


@pytest.mark.parametrize(
    ("kernel", "config", "sm", "has", "has_not"),
    EXPECTED,
    ids=[f"{kernel}-sm{sm}" for kernel, _, sm, _, _ in EXPECTED],
)
def test_code_has_the_instructions_that_the_gpu_has_for_it(
    assembly, kernel, config, sm, has, has_not
):
    codes = compiled_for(kernel, config, sm)
    assert [code_problem(code, Arch.parse(sm)) for code in codes] == [None] * len(codes)
    assert {cubin_sm(code.code) for code in codes} == {int(sm)}
    text = "\n".join(assembly)
    assert [pattern for pattern in has if not re.search(pattern, text)] == []
    assert [pattern for pattern in has_not if re.search(pattern, text)] == []


def test_divisions_of_the_scales_are_rounded_as_the_definition_says(assembly):
    compiled_for("quantize_fp8_group", "fp8", "90")
    divisions = set(re.findall(r"div\.\w+\S*", "\n".join(assembly)))
    assert divisions == {"div.rn.f32"}


@pytest.mark.parametrize("processor", ["gfx942", "gfx950"])
@pytest.mark.parametrize(("kernel", "config"), [("quantize_fp8_group", "fp8")])
def test_quantizers_compile_for_amd_and_never_to_its_own_kind_of_fp8(
    assembly, kernel, config, processor
):
    codes = compiled_for(kernel, config, processor)
    assert {hsaco_processor(code.code) for code in codes} == {processor}
    arch = Arch.parse(processor)
    assert [code_problem(code, arch) for code in codes] == [None] * len(codes)
    # gfx942 converts to the "fnuz" formats, whose codes mean other numbers
    assert not re.search(r"v_cvt\w*fp8", "\n".join(assembly))


def test_code_for_another_gpu_is_refused():
    nvidia = compiled_for("quantize_fp8_group", "fp8", "90")[0]
    amd = compiled_for("quantize_fp8_group", "fp8", "gfx942")[0]
    for code, arch in ((nvidia, "gfx942"), (amd, "90"), (amd, "gfx950"), (nvidia, "100")):
        assert code_problem(code, Arch.parse(arch)) is not None


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "cell",
    # tens of minutes
    compile_cells(default_registry(), backend="triton") if ALL in os.environ else [],
    ids=lambda cell: cell.id,
)
def test_every_kernel_compiles_for_every_gpu_it_claims(cell):
    outcome = run_compile_cell(cell, default_registry())
    assert outcome.verdict is Verdict.AGREES, outcome.reason
