from __future__ import annotations

import subprocess
import sys
import time
from functools import cache
from types import SimpleNamespace

import pytest
from tests.backends.flashinfer.jit.conftest import device_of

from quantmux.capability.arch import Arch
from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux_flashinfer import status
from quantmux_flashinfer.jit import making, states, toolchain
from quantmux_flashinfer.jit.modules import MODULES
from quantmux_flashinfer.jit.states import State, state_of, why_not

H200 = Arch.parse("90")


def write_module(machine, name="gemm", folder="90a", **changes):
    """Leave behind what FlashInfer leaves, of another program of this user."""
    library = machine.library(name, folder)
    library.parent.mkdir(parents=True)
    head = {"cuda_home": str(machine.home), "cxx": "c++", "nvcc": "$cuda_home/bin/nvcc", **changes}
    lines = [f"{key} = {value}" for key, value in head.items()]
    (library.parent / "build.ninja").write_text("\n".join(lines), encoding="utf-8")
    (library.parent / ".ninja_log").write_text(f"1\t2\t3\t{library}\tx\n", encoding="utf-8")
    library.touch()
    machine.look_again()
    return library


def test_a_module_that_nobody_compiled_is_missing_and_can_be_had(machine):
    assert state_of("gemm", "90a") == (State.MISSING, "about 31 s to compile")
    assert why_not("gemm", H200) is None
    assert not machine.workspace.exists(), "asking wrote something"


def test_what_another_program_compiled_is_found(machine):
    library = write_module(machine)
    assert state_of("gemm", "90a") == (State.BUILT, str(library))
    assert state_of("gemm", "100a")[0] is State.MISSING


def test_another_release_has_its_own_modules(machine):
    write_module(machine)
    machine.install("0.7.9")
    assert state_of("gemm", "90a")[0] is State.MISSING


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cuda_home": "/usr/local/cuda-12.8"}, "compiled with cuda_home = /usr/local/cuda-12.8"),
        ({"nvcc": "ccache nvcc"}, "compiled with nvcc = ccache nvcc"),
        ({"cxx": "clang++"}, "compiled with cxx = clang++"),
    ],
)
def test_what_flashinfer_would_compile_anew_is_not_taken_for_built(machine, changes, reason):
    write_module(machine, **changes)
    state, why = state_of("gemm", "90a")
    assert state is State.MISSING
    assert reason in why


def test_flags_that_a_module_was_not_compiled_with_make_it_stale(machine, monkeypatch):
    write_module(machine)
    monkeypatch.setenv("FLASHINFER_EXTRA_CUDAFLAGS", "-lineinfo")
    machine.look_again()
    assert "compiled without -lineinfo" in state_of("gemm", "90a")[1]


def test_a_library_whose_link_did_not_end_is_not_taken_for_built(machine):
    library = write_module(machine)
    (library.parent / ".ninja_log").write_text("1\t2\t3\tgemm.cuda.o\tx\n", encoding="utf-8")
    state, why = state_of("gemm", "90a")
    assert state is State.MISSING
    assert "did not end" in why


def test_a_module_that_was_shipped_needs_no_compiler(machine, monkeypatch):
    machine.put(machine.site / "flashinfer" / "data" / "aot" / "gemm", "gemm.so")
    monkeypatch.setenv("CUDA_HOME", str(machine.folder / "nowhere"))
    machine.look_again()
    assert state_of("gemm", "90a")[0] is State.PREBUILT
    assert why_not("gemm", H200) is None
    assert why_not("norm", H200).field == "nvcc"


def test_a_shipped_module_that_compiles_at_its_calls_needs_one_all_the_same(machine, monkeypatch):
    name = "fp8_blockscale_gemm_90"
    machine.put(machine.site / "flashinfer" / "data" / "aot" / name, f"{name}.so")
    machine.look_again()
    assert why_not(name, H200) is None
    monkeypatch.setenv("CUDA_HOME", str(machine.folder / "nowhere"))
    machine.look_again()
    found = why_not(name, H200)
    assert (found.code, found.field) == ("unavailable", "nvcc")
    assert "every new shape" in found.required


def test_wheels_of_another_release_do_not_count(machine, monkeypatch):
    from quantmux_flashinfer.jit import place

    machine.put(machine.site / "flashinfer_jit_cache", "__init__.py")
    machine.put(machine.site / "flashinfer_jit_cache" / "jit_cache" / "gemm", "gemm.so")
    versions = {"flashinfer-jit-cache": "0.7.2.post1+cu130"}
    monkeypatch.setattr(place, "package_version", versions.get)
    assert state_of("gemm", "90a")[0] is State.PREBUILT
    versions["flashinfer-jit-cache"] = "0.7.2+cu130"
    assert state_of("gemm", "90a")[0] is State.MISSING


def test_a_module_is_not_had_where_its_header_is_missing(machine):
    (machine.home / "include" / "cublasLt.h").unlink()
    machine.look_again()
    state, why = state_of("gemm", "90a")
    assert state is State.IMPOSSIBLE
    assert "cublasLt.h" in why
    assert "pip install nvidia-cublas" in why
    assert str(why_not("gemm", H200)).startswith("unavailable: headers needs cublasLt.h")
    assert why_not("rope", H200) is None


def test_a_module_that_is_built_still_needs_the_program_that_looks_whether_it_is_fresh(
    machine, monkeypatch
):
    write_module(machine)
    (machine.bin / "ninja").unlink()
    monkeypatch.setattr(sys, "executable", str(machine.folder / "python"))
    monkeypatch.setattr(toolchain, "util", SimpleNamespace(find_spec=lambda _name: None))
    machine.look_again()
    assert state_of("gemm", "90a")[0] is State.IMPOSSIBLE
    assert why_not("gemm", H200).hint == "pip install ninja"


def test_precompiled_sources_that_were_never_downloaded_are_said_to_be_missing(machine):
    found = why_not("trtllm_gemm", Arch.parse("100"))
    assert (found.code, found.field) == ("unavailable", "cubins")
    assert machine.compiled == []


def test_a_torch_for_an_older_cuda_would_load_another_module(machine, monkeypatch):
    consumer = Arch.parse("120")
    monkeypatch.setattr(states, "_torch_cuda", cache(lambda: "13.0"))
    assert states._why_not("fp4_quantization_120f", consumer) is None
    monkeypatch.setattr(states, "_torch_cuda", cache(lambda: "12.8"))
    found = states._why_not("fp4_quantization_120f", consumer)
    assert (found.field, found.actual) == ("torch", "CUDA 12.8")
    del machine


def test_the_users_list_of_architectures_can_leave_a_gpu_out(machine, monkeypatch):
    monkeypatch.setenv("FLASHINFER_CUDA_ARCH_LIST", "8.9")
    machine.look_again()
    found = why_not("gemm", H200)
    assert (found.code, found.field) == ("unavailable", "FLASHINFER_CUDA_ARCH_LIST")


def test_with_never_a_missing_module_is_not_built(machine, options):
    options["build"] = "never"
    found = why_not("gemm", H200)
    assert found.code == "not_built"
    assert found.hint == "quantmux build flashinfer"
    write_module(machine)
    assert why_not("gemm", H200) is None


def test_an_unknown_way_to_build_is_said(machine, options):
    options["build"] = "sometimes"
    found = why_not("gemm", H200)
    assert found.code == "unavailable"
    assert "build of the plugin flashinfer" in found.actual
    del machine


def test_flashinfers_own_switch_leaves_only_what_was_shipped(machine, monkeypatch):
    write_module(machine)
    monkeypatch.setenv("FLASHINFER_DISABLE_JIT", "1")
    machine.look_again()
    assert why_not("gemm", H200).hint.startswith("unset FLASHINFER_DISABLE_JIT")


def test_a_failure_is_remembered_until_something_changes(machine):
    machine.behaves(fail="x.cu(3): error: no such thing")
    with pytest.raises(Exception, match="does not compile"):
        making.make("gemm", "90a")
    machine.look_again()
    state, why = state_of("gemm", "90a")
    assert state is State.FAILED
    assert "no such thing" in why
    found = why_not("gemm", H200)
    assert found.code == "unavailable"
    assert found.hint == "quantmux build flashinfer --force"
    assert why_not("norm", H200) is None
    machine.nvcc("13.1.2")
    assert state_of("gemm", "90a")[0] is State.MISSING


def test_a_selections_question_costs_less_than_its_budget(machine):
    del machine
    for name in MODULES:
        why_not(name, H200)
    began = time.perf_counter()
    for _ in range(100):
        for name in MODULES:
            why_not(name, H200)
    assert (time.perf_counter() - began) / 100 < 0.0005


def test_modules_that_may_not_be_compiled_do_not_take_the_backend_away(machine, monkeypatch):
    no = Rejection(RejectionCode.NOT_BUILT, "module", "gemm for 90a", "not compiled")
    monkeypatch.setattr(status, "_refusal", lambda *_: no)
    assert status.status_on(device_of(90)).state == "ok"
    # a compiler that is missing does
    gone = toolchain.tool("nvcc", "nvcc >= 12.8 for 90a", "none", "install it")
    monkeypatch.setattr(status, "_refusal", lambda *_: gone)
    found = status.status_on(device_of(90))
    assert (found.state, found.hint) == ("unavailable", "install it")
    del machine


def test_asking_imports_neither_torch_nor_flashinfer():
    program = """
import sys
from quantmux.capability.arch import Arch
from quantmux_flashinfer.jit import library_units, states
for name in states.MODULES:
    states.why_not(name, Arch.parse("90"))
library_units.library_units()
print([name for name in ("torch", "flashinfer", "tvm_ffi", "numpy") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
