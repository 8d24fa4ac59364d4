"""Compile-only evidence: real Triton and CUDA code for absent GPUs, and what over-claims."""

import warnings

import pytest

from quantmux.capability.arch import Arch
from quantmux.capability.evidence import EvidenceLevel
from quantmux.config import QuantizeConfig
from quantmux.errors import BuildError
from quantmux.registry.protocol import CompilesAhead
from quantmux.testing.cell import Verdict
from quantmux.testing.compile_cells import compile_cells, run_compile_cell
from quantmux.testing.compile_cuda import compile_cuda, find_nvcc
from quantmux.testing.compile_elf import code_problem, cubin_sm
from quantmux.testing.compile_evidence import compiled_rows
from quantmux.testing.compile_triton import compile_triton

needs_nvcc = [
    pytest.mark.nvcc,
    pytest.mark.skipif(find_nvcc() is None, reason="nvcc is not on this machine"),
]
BLACKWELL = ("b200", "b300")


def outcomes(registry, *profiles):
    cells = compile_cells(registry, profiles=profiles)
    return {(c.kernel.partition("/")[2], c.label): run_compile_cell(c, registry) for c in cells}


def sm(number):
    return Arch(vendor="nvidia", name=str(number))


@pytest.fixture(autouse=True)
def _triton_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def test_a_triton_kernel_compiles_to_machine_code_for_absent_gpus(registry_of):
    registry = registry_of({"token": ("triton_kernel", ("89+",))})
    found = outcomes(registry, "l40s", "h200", "b200", "rtx_pro_6000")
    assert len(found) == 4
    assert {str(o.verdict) for o in found.values()} == {"agrees"}, found
    assert "sm_90a" in found["token", "h200"].reason
    assert "sm_89" in found["token", "l40s"].reason
    assert "sm_120a" in found["token", "rtx_pro_6000"].reason


@pytest.mark.parametrize("number", [89, 90, 100, 103, 120, 121])
def test_triton_machine_code_is_of_the_asked_architecture(ahead, number):
    config = QuantizeConfig(operand="fp8_token", n=192)
    (code,) = ahead.triton_kernel.compile_for(config, sm(number))
    assert cubin_sm(code.code) == number
    assert code_problem(code, sm(number)) is None
    assert code.tool == "triton"
    assert isinstance(ahead.triton_kernel, CompilesAhead)


def test_catches_a_triton_kernel_that_claims_an_architecture_without_fp8(registry_of):
    registry = registry_of({"token": ("triton_kernel", ("80+",))})
    found = outcomes(registry, "a100", "h200")
    assert found["token", "h200"].verdict is Verdict.AGREES
    caught = found["token", "a100"]
    assert caught.verdict is Verdict.FAILS
    assert "fp8e4nv not supported" in caught.reason
    assert caught.code == "compile"


def test_a_triton_argument_without_a_type_is_named(ahead):
    with pytest.raises(BuildError, match="type of argument codes is not given"):
        compile_triton(ahead.token_quantize, {"x": "*bf16"}, {"BLOCK": 64}, sm(90))


def test_a_triton_argument_that_does_not_exist_is_named(ahead):
    with pytest.raises(BuildError, match="has no argument y"):
        compile_triton(ahead.token_quantize, {"y": "*bf16"}, {}, sm(90))


def test_says_that_an_interpreting_process_cannot_compile(registry_of, monkeypatch):
    registry = registry_of({"token": ("triton_kernel", ("90",))})
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    (outcome,) = outcomes(registry, "h200").values()
    assert outcome.verdict is Verdict.NOT_HERE
    assert "TRITON_INTERPRET is set" in outcome.reason


def test_triton_compiles_with_warnings_as_errors(ahead):
    types = {"x": "*bf16", "codes": "*fp8e4nv", "scales": "*fp32", "n": "i32", "stride": "i32"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code = compile_triton(
            ahead.token_quantize,
            {**types, "eps": "fp32"},
            {"BLOCK": 128},
            sm(90),
            divisible_by_16=("x", "codes", "n"),
        )
    assert code.target == "sm_90a"


@pytest.mark.parametrize(
    ("profile", "target"),
    [
        pytest.param("h200", "sm_90a", marks=needs_nvcc),
        pytest.param("b300", "sm_100f", marks=[*needs_nvcc, pytest.mark.slow]),
        pytest.param("rtx_pro_6000", "sm_120f", marks=[*needs_nvcc, pytest.mark.slow]),
    ],
)
def test_a_cuda_source_compiles_to_machine_code_for_absent_gpus(registry_of, profile, target):
    registry = registry_of({"row": ("cuda_kernel", ("90a", "100f", "120f"))})
    (outcome,) = outcomes(registry, profile).values()
    assert outcome.verdict is Verdict.AGREES, outcome
    assert f"{target} by nvcc" in outcome.reason


@pytest.mark.nvcc
@pytest.mark.skipif(find_nvcc() is None, reason="nvcc is not on this machine")
def test_catches_hopper_instructions_in_a_kernel_that_claims_blackwell(registry_of):
    registry = registry_of({"wgmma": ("hopper_only", ("90a", "100f"))})
    found = outcomes(registry, "h200", "b200")
    assert found["wgmma", "h200"].verdict is Verdict.AGREES
    caught = found["wgmma", "b200"]
    assert caught.verdict is Verdict.FAILS
    assert "wgmma" in caught.reason
    assert "sm_100f" in caught.reason


def test_says_which_tool_is_missing(monkeypatch, tmp_path):
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(BuildError, match="nvcc is not here") as caught:
        compile_cuda("any.cu", "90a")
    assert caught.value.code == "no_compiler"


def test_finds_nvcc_in_the_wheel_of_nvidia(monkeypatch, tmp_path):
    nvcc = tmp_path / "nvidia" / "cu13" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert find_nvcc() == nvcc


def test_a_compiler_that_hangs_is_given_up(monkeypatch, tmp_path):
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\nexec sleep 60\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(BuildError) as caught:
        compile_cuda("any.cu", "90a", timeout=0.2)
    assert "no result after 0.2 s" in caught.value.facts


def test_a_missing_compiler_is_not_held_against_the_kernel(registry_of):
    registry = registry_of({"tool": ("missing_tool", ("90a",)), "plain": ("plain", ("90a",))})
    found = outcomes(registry, "h200")
    assert [str(o.verdict) for o in found.values()] == ["not_here", "not_here"]
    assert found["plain", "h200"].reason == "offers no compile_for"
    assert "nvcc is not here" in found["tool", "h200"].reason


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([], "gave nothing"),
        (None, "gave a NoneType"),
        ([b"\x7fELF"], "gave a bytes, not a CompiledCode"),
        ("object_code:sm=80,target=sm_90a", "said to be for sm_90a, assembled for sm_80"),
        ("object_code:sm=90,target=sm_90a,abi=7", None),
        ("object_code:sm=89,target=sm_89", "does not run on sm90"),
        ("object_code:sm=90,target=90a", "not of the form"),
        ("empty", "no machine code at all"),
        ("text", "no CUDA machine code"),
    ],
)
def test_what_compile_for_gives_is_looked_at(registry_of, ahead, answer, said):
    from dataclasses import replace

    registry = registry_of({"gives": ("gives", ("90a",))})
    given = answer
    if isinstance(answer, str):
        name, _, text = answer.partition(":")
        fields = dict(part.split("=") for part in text.split(",") if part)
        numbers = {k: int(v) if v.isdigit() else v for k, v in fields.items()}
        code = ahead.object_code(**numbers)
        if name == "empty":
            code = replace(code, code=b"")
        if name == "text":
            code = replace(code, code=b".version 9.0 .target sm_90a" * 9)
        given = [code]
    ahead.gives.answer = lambda *_: given
    (outcome,) = outcomes(registry, "h200").values()
    if said is None:
        assert outcome.verdict is Verdict.AGREES
    else:
        assert outcome.verdict is Verdict.FAILS
        assert said in outcome.reason


def test_a_compile_for_that_raises_fails_with_what_it_raised(registry_of, ahead):
    def answer(*_):
        raise SystemExit("bye")

    ahead.gives.answer = answer
    (outcome,) = outcomes(registry_of({"gives": ("gives", ("90a",))}), "h200").values()
    assert outcome.verdict is Verdict.FAILS
    assert "SystemExit: bye" in outcome.reason


def test_family_code_runs_on_later_minors_and_exact_code_does_not(ahead):
    code = ahead.object_code
    assert code_problem(code(100, "sm_100f"), sm(103)) is None
    assert code_problem(code(80, "sm_80"), sm(89)) is None
    assert "does not run" in code_problem(code(100, "sm_100a"), sm(103))
    assert "does not run" in code_problem(code(103, "sm_103f"), sm(100))
    assert "does not run" in code_problem(code(90, "sm_90"), sm(100))


def test_profiles_of_one_architecture_compile_once(registry_of, ahead):
    registry = registry_of({"gives": ("gives", ("90a",))})
    ahead.gives.answer = lambda *_: [ahead.object_code()]
    outcomes(registry, "h100", "h200")
    assert len({str(config) for config, _ in ahead.gives.calls}) == len(ahead.gives.calls)


def test_a_kernel_that_serves_no_case_of_what_it_claims_fails(registry_of):
    registry = registry_of({"plain": ("triton_kernel", ("90a",))}, align_k=999_983)
    (outcome,) = outcomes(registry, "h200").values()
    assert outcome.verdict is Verdict.FAILS
    assert outcome.code == "no_case"


def test_composites_and_cpu_kernels_have_no_cell(registry_of):
    registry = registry_of({"plain": ("plain", ("any",))}, tags={"composite"})
    assert compile_cells(registry) == ()
    assert compile_cells(registry_of({"plain": ("plain", ("cpu",))})) == ()


def test_cells_follow_the_architectures_and_filters(registry_of):
    registry = registry_of({"a": ("plain", ("100f",)), "b": ("plain", ("90a",))})
    assert [c.id for c in compile_cells(registry, profiles=BLACKWELL)] == [
        "ahead/a::compiles[b200]",
        "ahead/a::compiles[b300]",
    ]
    assert {c.kernel for c in compile_cells(registry, kernels=["ahead/b"])} == {"ahead/b"}
    assert compile_cells(registry, ops=["linear"]) == ()
    assert compile_cells(registry, backend="torch") == ()


def test_rows_say_compiled_for_what_compiled_and_speak_against_what_did_not(registry_of, ahead):
    registry = registry_of({"gives": ("gives", ("90a", "100f")), "plain": ("plain", ("90a",))})
    ahead.gives.answer = lambda _, arch: [ahead.object_code()] if arch.sm == 90 else []
    cells = compile_cells(registry, profiles=["h200", "b200"])
    rows = compiled_rows([(c, run_compile_cell(c, registry)) for c in cells], registry)
    assert set(rows) == {"h200", "b200"}
    (good,), (bad,) = rows["h200"], rows["b200"]
    assert good.level is EvidenceLevel.COMPILED
    assert good.archs == ("sm90",)
    assert (good.cases, good.failed) == (0, 0)
    assert bad.level is EvidenceLevel.DECLARED
    assert bad.failed == 1
    assert "gave nothing" in bad.note
