from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest

from quantmux.errors import ConfigError
from quantmux_flashinfer.jit import environment, place, variables


def test_flashinfer_is_told_to_be_quiet_and_to_stay_offline(machine):
    del machine
    environment.apply()
    assert os.environ["FLASHINFER_NO_DOWNLOAD"] == "1"
    assert os.environ["FLASHINFER_USE_CUDA_NORM"] == "1"
    assert os.environ["FLASHINFER_LOGGING_LEVEL"] == "warning"


@pytest.mark.parametrize(
    "name",
    [
        "FLASHINFER_WORKSPACE_BASE",
        "FLASHINFER_USE_CUDA_NORM",
        "FLASHINFER_LOGGING_LEVEL",
        "TRTLLM_DG_CACHE_DIR",
        "CUDA_HOME",
    ],
)
def test_what_the_user_set_stays(machine, options, monkeypatch, name):
    value = str(machine.home) if name == "CUDA_HOME" else "/the/users"
    monkeypatch.setenv(name, value)
    options["workspace"] = "/an/option"
    environment.apply()
    assert os.environ[name] == value


def test_no_download_is_ours_whatever_the_user_set(machine, monkeypatch):
    del machine
    monkeypatch.setenv("FLASHINFER_NO_DOWNLOAD", "0")
    environment.apply()
    assert os.environ["FLASHINFER_NO_DOWNLOAD"] == "1"


def test_the_option_workspace_names_the_folder_of_modules_and_of_deep_gemm(
    machine, options, monkeypatch
):
    monkeypatch.delenv("FLASHINFER_WORKSPACE_BASE")
    options["workspace"] = str(machine.folder / "mine")
    environment.apply()
    assert os.environ["FLASHINFER_WORKSPACE_BASE"] == str(machine.folder / "mine")
    assert place.find_place().base == machine.folder / "mine"
    deep_gemm = os.environ["TRTLLM_DG_CACHE_DIR"]
    assert deep_gemm.startswith(str(machine.folder / "mine"))
    # its names say neither the release nor the compiler
    assert deep_gemm.endswith("0.7.2.post1-nvcc13.0.88")


def test_without_an_option_the_librarys_own_folder_holds(machine, monkeypatch):
    monkeypatch.delenv("FLASHINFER_WORKSPACE_BASE")
    monkeypatch.setenv("HOME", str(machine.folder / "home"))
    environment.apply()
    assert "FLASHINFER_WORKSPACE_BASE" not in os.environ
    assert place.find_place().base == machine.folder / "home"
    assert not os.environ["TRTLLM_DG_CACHE_DIR"].startswith(str(machine.folder / "home"))


def test_another_option_takes_the_place_of_the_first(machine, options, monkeypatch):
    monkeypatch.delenv("FLASHINFER_WORKSPACE_BASE")
    for name in ("one", "two"):
        options["workspace"] = str(machine.folder / name)
        environment.apply()
        assert os.environ["FLASHINFER_WORKSPACE_BASE"] == str(machine.folder / name)


def test_a_workspace_that_is_no_text_is_refused(machine, options, monkeypatch):
    del machine
    monkeypatch.delenv("FLASHINFER_WORKSPACE_BASE")
    options["workspace"] = 3
    with pytest.raises(ConfigError, match="workspace"):
        environment.apply()


def test_everything_that_was_set_can_be_taken_back(machine, monkeypatch):
    monkeypatch.setenv("FLASHINFER_NO_DOWNLOAD", "0")
    (machine.home / "lib64" / "libnvrtc.so").unlink()
    machine.put(machine.site / "nvidia" / "cu13" / "lib", "libnvrtc.so.13")
    machine.look_again()
    before = dict(os.environ)
    environment.apply()
    assert "FLASHINFER_EXTRA_LDFLAGS" in os.environ
    variables.take_back()
    assert dict(os.environ) == before


def test_a_worker_sees_no_gpu_and_compiles_for_its_target_where_the_process_looks(machine):
    found = environment.for_worker(place.find_place(), "89+90a", 3)
    assert found["FLASHINFER_CUDA_ARCH_LIST"] == "8.9 9.0a"
    assert found["FLASHINFER_WORKSPACE_BASE"] == str(machine.workspace)
    assert found["MAX_JOBS"] == "3"
    assert found["CUDA_VISIBLE_DEVICES"] == ""


def test_a_library_that_is_imported_says_itself_where_it_keeps_modules(machine, monkeypatch):
    cache = machine.folder / "elsewhere" / ".cache" / "flashinfer"
    loaded = SimpleNamespace(
        __file__=str(machine.site / "flashinfer" / "jit" / "env.py"),
        FLASHINFER_BASE_DIR=machine.folder / "elsewhere",
        FLASHINFER_JIT_DIR=cache / "0.6.8" / "89_90a" / "cached_ops",
        flashinfer_version="0.6.8",
    )
    monkeypatch.setitem(sys.modules, "flashinfer.jit.env", loaded)
    found = place.find_place()
    assert (found.version, found.imported) == ("0.6.8", "89+90a")
    assert found.modules("89+90a") == loaded.FLASHINFER_JIT_DIR
    loaded.FLASHINFER_JIT_DIR = cache / "0.6.8" / "cached_ops"  # what it does without a GPU
    assert place.find_place().imported == ""


def test_the_imported_library_itself_agrees(installed):
    from flashinfer.jit import env

    del installed
    found = place.find_place()
    assert found.version == env.flashinfer_version
    assert found.package == env.FLASHINFER_CSRC_DIR.parents[1]
    assert found.prebuilt == env.FLASHINFER_AOT_DIR
    if found.imported:
        assert found.modules(found.imported) == env.FLASHINFER_JIT_DIR


def test_nvcc_that_nobody_else_would_find_is_named_for_kernels_compiled_at_their_first_call(
    machine, monkeypatch
):
    from quantmux_flashinfer.jit import toolchain

    monkeypatch.setattr(toolchain, "DEFAULT", machine.home)
    monkeypatch.delenv("CUDA_HOME")
    machine.look_again()
    environment.apply()
    assert os.environ["TRTLLM_DG_NVCC_COMPILER"] == str(machine.home / "bin" / "nvcc")
    assert "CUDA_HOME" not in os.environ
