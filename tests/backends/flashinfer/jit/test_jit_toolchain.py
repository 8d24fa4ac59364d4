from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from quantmux_flashinfer.jit import environment, linking, toolchain
from quantmux_flashinfer.jit.modules import MODULES
from quantmux_flashinfer.jit.shim import shim_flags, shim_folder
from quantmux_flashinfer.jit.toolchain import can_build, find_toolchain

GEMM = MODULES["gemm"]
PATH = os.environ.get("PATH", "")


def refusal(name, target="90a"):
    return can_build(MODULES[name], target, find_toolchain())


def test_a_complete_toolkit_needs_nothing_from_us(machine):
    found = find_toolchain()
    assert found.home == machine.home
    assert found.version == "13.0.88"
    assert not found.linking.links
    assert shim_flags(found.linking, found.host) == {}
    hoppers = [module for module in MODULES.values() if 90 in module.archs]
    assert hoppers
    assert all(can_build(module, "90a", found) is None for module in hoppers)


def test_a_machine_without_nvcc_says_where_it_looked(machine, monkeypatch):
    monkeypatch.setattr(toolchain, "DEFAULT", machine.folder / "nowhere")
    monkeypatch.delenv("CUDA_HOME")
    found = refusal("gemm")
    assert found.code == "unavailable"
    assert found.required == "nvcc >= 12.8 for 90a"
    assert found.actual == "none in CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda"
    assert "CUDA_HOME" in found.hint


def test_a_named_folder_without_nvcc_is_named(machine, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(machine.folder))
    assert refusal("gemm").actual == f"CUDA_HOME={machine.folder} holds no bin/nvcc"


@pytest.mark.parametrize(
    ("target", "oldest"),
    [("90a", "12.8"), ("100a", "12.8"), ("103a", "12.9"), ("121a", "12.9"), ("89+121a", "12.9")],
)
def test_the_compiler_has_to_know_the_target(machine, target, oldest):
    machine.nvcc("12.6.85")
    assert f">= {oldest} " in refusal("gemm", target).required
    assert "12.6.85" in refusal("gemm", target).actual
    machine.nvcc(f"{oldest}.1")
    assert refusal("gemm", target) is None


def test_a_module_may_want_a_later_compiler_than_its_target(machine):
    machine.nvcc("12.8.61")
    assert refusal("fp4_quantization_120f", "120a").required.startswith("nvcc >= 12.9 ")
    assert refusal("gemm", "120a") is None


def test_flashinfers_order_of_folders_is_ours(machine, monkeypatch):
    other = machine.folder / "other"
    monkeypatch.setenv("CUDA_PATH", str(other))
    assert find_toolchain().home == machine.home
    monkeypatch.delenv("CUDA_HOME")
    assert find_toolchain().home == other
    monkeypatch.delenv("CUDA_PATH")
    monkeypatch.setenv("PATH", f"{machine.bin}:{machine.home / 'bin'}")
    assert find_toolchain().home == machine.home
    monkeypatch.setenv("PATH", str(machine.bin))
    monkeypatch.setattr(toolchain, "DEFAULT", other)
    machine.put(other, "a_file")
    toolchain.forget()
    assert find_toolchain().home == other


def test_an_nvcc_that_stands_alone_is_not_taken_for_a_toolkit(machine, monkeypatch):
    monkeypatch.delenv("CUDA_HOME")
    monkeypatch.setattr(toolchain, "DEFAULT", machine.home)
    machine.program(machine.bin / "nvcc", "exit 1")  # a script: one folder above lies no header
    toolchain.forget()
    assert find_toolchain().home == machine.home
    environment.apply()
    assert os.environ["CUDA_HOME"] == str(machine.home)


def test_a_link_to_nvcc_leads_to_its_toolkit(machine, monkeypatch):
    monkeypatch.delenv("CUDA_HOME")
    monkeypatch.setattr(toolchain, "DEFAULT", machine.folder / "nowhere")
    (machine.bin / "nvcc").symlink_to(machine.home / "bin" / "nvcc")
    toolchain.forget()
    found = find_toolchain()
    assert (found.home, found.sets_home) == (machine.home, True)


@pytest.mark.parametrize(("program", "field"), [("c++", "c++"), ("ninja", "ninja")])
def test_a_missing_program_is_named_with_its_remedy(machine, monkeypatch, program, field):
    (machine.bin / program).unlink()
    monkeypatch.setattr(sys, "executable", str(machine.bin / "python"))
    monkeypatch.setattr(toolchain, "util", SimpleNamespace(find_spec=lambda _name: None))
    machine.look_again()
    found = refusal("gemm")
    assert (found.code, found.field) == ("unavailable", field)
    assert "install" in found.hint


def test_ninja_beside_the_interpreter_is_put_on_the_path(machine, monkeypatch):
    (machine.bin / "ninja").unlink()
    machine.program(machine.folder / "venv" / "ninja", "exit 0")
    python = machine.folder / "venv" / "python"
    monkeypatch.setattr(sys, "executable", str(python))
    machine.look_again()
    environment.apply()
    assert os.environ["PATH"] == f"{machine.bin}:{python.parent}"
    environment.apply()
    assert os.environ["PATH"].count(str(python.parent)) == 1


@pytest.mark.parametrize(
    ("file", "name", "package"),
    [
        ("include/cublasLt.h", "gemm", "nvidia-cublas"),
        ("include/curand_kernel.h", "norm", "nvidia-curand"),
        ("lib64/libcublas.so", "gemm", "nvidia-cublas"),
        ("lib64/libnvrtc.so", "fp8_blockscale_gemm_90", "nvidia-cuda-nvrtc"),
        ("lib64/libcudart.so", "rope", "nvidia-cuda-runtime"),
    ],
)
def test_what_a_module_lacks_is_said_with_the_package_that_has_it(machine, file, name, package):
    (machine.home / file).unlink()
    machine.look_again()
    found = refusal(name)
    assert found.code == "unavailable"
    assert Path(file).name in found.required
    assert found.hint.startswith(f"pip install {package},")
    assert refusal("silu_and_mul") is None or file == "lib64/libcudart.so"


def test_the_package_for_cuda_12_has_its_own_name(machine):
    machine.nvcc("12.9.41")
    (machine.home / "include" / "cublasLt.h").unlink()
    machine.look_again()
    assert refusal("gemm").hint.startswith("pip install nvidia-cublas-cu12,")


def test_libraries_of_pip_packages_get_links_under_their_plain_names(machine):
    (machine.home / "lib64" / "libcublas.so").unlink()
    (machine.home / "include" / "cublasLt.h").unlink()
    wheel = machine.site / "nvidia" / "cu13"
    machine.put(wheel / "lib", "libcublas.so.13")
    machine.put(wheel / "include", "cublasLt.h")
    machine.look_again()
    found = find_toolchain()
    assert can_build(GEMM, "90a", found) is None
    flags = shim_flags(found.linking, found.host)
    folder = shim_folder(found.linking)
    assert flags["FLASHINFER_EXTRA_LDFLAGS"] == f"-L{folder}"
    assert [link.name for link in folder.iterdir()] == ["libcublas.so"]
    assert (folder / "libcublas.so").resolve() == wheel / "lib" / "libcublas.so.13"
    assert flags["FLASHINFER_EXTRA_CUDAFLAGS"] == f"-isystem {wheel / 'include'}"
    assert flags["FLASHINFER_EXTRA_CFLAGS"] == flags["FLASHINFER_EXTRA_CUDAFLAGS"]


def test_a_library_of_another_cuda_is_not_linked_against(machine):
    (machine.home / "lib64" / "libcublas.so").unlink()
    machine.put(machine.site / "nvidia" / "cu12" / "lib", "libcublas.so.12")
    machine.put(machine.site / "nvidia" / "cublas" / "lib", "libcublas.so.12")
    machine.put(machine.site / "nvidia" / "cu13" / "lib", "libcublas.so.12")
    machine.look_again()
    assert refusal("gemm").required == "libcublas.so"


def test_folders_that_the_user_names_are_looked_at_and_kept(machine, monkeypatch):
    (machine.home / "lib64" / "libcublas.so").unlink()
    (machine.home / "lib64" / "libnvrtc.so").unlink()
    machine.put(machine.folder / "mine", "libcublas.so")
    machine.put(machine.site / "nvidia" / "cu13" / "lib", "libnvrtc.so.13", "libcublas.so.13")
    monkeypatch.setenv("FLASHINFER_EXTRA_LDFLAGS", f"-L{machine.folder / 'mine'}")
    machine.look_again()
    assert list(find_toolchain().linking.links) == ["nvrtc"]
    environment.apply()
    folder = shim_folder(find_toolchain().linking)
    expected = f"-L{machine.folder / 'mine'} -L{folder}"
    assert os.environ["FLASHINFER_EXTRA_LDFLAGS"] == expected
    environment.apply()
    toolchain.forget()
    assert list(find_toolchain().linking.links) == ["nvrtc"], "it found our own folder"
    environment.apply()
    assert os.environ["FLASHINFER_EXTRA_LDFLAGS"] == expected


def test_without_any_libcuda_an_empty_one_is_made_to_link_against(machine, monkeypatch):
    (machine.home / "lib64" / "stubs" / "libcuda.so").unlink()
    monkeypatch.setattr(linking, "_system_folders", lambda: iter(()))
    monkeypatch.setattr(linking, "_DRIVER_FOLDERS", ())
    host = shutil.which("c++", path=PATH)
    if host is None:
        pytest.skip("c++ is not here")
    monkeypatch.setenv("PATH", f"{machine.bin}:{PATH}")
    monkeypatch.setenv("CXX", host)
    machine.look_again()
    found = find_toolchain()
    assert found.linking.needs_stub
    assert can_build(GEMM, "90a", found) is None
    flags = shim_flags(found.linking, found.host)["FLASHINFER_EXTRA_LDFLAGS"]
    assert "--no-as-needed -lcuda" in flags
    stub = shim_folder(found.linking) / "libcuda.so"
    assert b"libcuda.so.1\0" in stub.read_bytes()


def test_the_drivers_own_library_goes_before_an_empty_one(machine, monkeypatch):
    (machine.home / "lib64" / "stubs" / "libcuda.so").unlink()
    driver = machine.folder / "driver"
    machine.put(driver, "libcuda.so.1")
    monkeypatch.setattr(linking, "_system_folders", lambda: iter([driver]))
    machine.look_again()
    assert find_toolchain().linking.links == {"cuda": driver / "libcuda.so.1"}
    assert not find_toolchain().linking.needs_stub
