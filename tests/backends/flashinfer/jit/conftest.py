"""A machine whose FlashInfer compiles as told, and whose CUDA toolkit is made of empty files."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import MappingProxyType

import pytest

from quantmux.capability.arch import Arch
from quantmux.capability.detect import forget_devices
from quantmux.capability.device import DeviceProfile
from quantmux.registry import default
from quantmux.testing import compile_cuda
from quantmux_flashinfer.jit import background, gpus, states, toolchain, variables
from quantmux_flashinfer.jit.modules import MODULES
from quantmux_flashinfer.surface import installed

FAKE = Path(__file__).with_name("fake_flashinfer.py")
OURS = (
    "CUDA_HOME", "CUDA_PATH", "CC", "CXX", "CPATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH",
    "MAX_JOBS", "TRTLLM_DG_CACHE_DIR", "TRTLLM_DG_NVCC_COMPILER",
)  # fmt: skip


@pytest.fixture
def options(monkeypatch):
    """The plugin's options; a test may fill them."""
    given: dict[str, object] = {}
    monkeypatch.setattr(default, "plugin_options", lambda _name: dict(given))
    return given


@pytest.fixture
def machine(tmp_path, monkeypatch, options):
    """A machine with a complete toolkit, one H200, and a FlashInfer that compiles nothing."""
    del options
    for name in list(os.environ):
        if name in OURS or name.startswith("FLASHINFER_"):
            monkeypatch.delenv(name)
    for name in [n for n in sys.modules if n.partition(".")[0] == "flashinfer"]:
        monkeypatch.delitem(sys.modules, name)
    return Machine(tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def _everything_forgotten():
    forget()
    yield
    forget()


def forget():
    background.forget()
    states.forget()
    toolchain.forget()
    installed.forget()
    forget_devices()
    variables.take_back()
    compile_cuda.nvcc_version.cache_clear()


class Machine:
    """What is on it; every question after a change is asked anew."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.monkeypatch = folder, monkeypatch
        self.home = folder / "toolkit"
        self.site = folder / "site"
        self.workspace = folder / "workspace"
        self.bin = folder / "bin"
        self.runs = folder / "runs.log"
        self.put(self.home / "include", "cuda_runtime.h", "cublasLt.h", "curand_kernel.h")
        libraries = ("libcudart.so", "libcublas.so", "libcublasLt.so", "libnvrtc.so")
        self.put(self.home / "lib64", *libraries)
        self.put(self.home / "lib64" / "stubs", "libcuda.so")
        self.nvcc("13.0.88")
        for name in ("c++", "ninja"):
            self.program(self.bin / name, "exit 0")
        self.install()
        monkeypatch.setenv("CUDA_HOME", str(self.home))
        monkeypatch.setenv("PATH", str(self.bin))
        monkeypatch.setenv("FLASHINFER_WORKSPACE_BASE", str(self.workspace))
        monkeypatch.setenv("FAKE_FLASHINFER_RUNS", str(self.runs))
        self.has_gpus(90)

    def put(self, folder, *names):
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).write_text("", encoding="utf-8")

    def program(self, file, script):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        file.chmod(0o755)

    def nvcc(self, version):
        release = version.rpartition(".")[0]
        text = f"Cuda compilation tools, release {release}, V{version}"
        self.program(self.home / "bin" / "nvcc", f"echo '{text}'")
        self.look_again()

    def install(self, version="0.7.2.post1", *, without=(), gives=MappingProxyType({})):
        """Install a release: without some generators, or with some that give other modules."""
        package = self.site / "flashinfer"
        for place in (package, package / "jit"):
            place.mkdir(parents=True, exist_ok=True)
            (place / "__init__.py").touch()
        (package / "_build_meta.py").write_text(f'__version__ = "{version}"\n', encoding="utf-8")
        fake = FAKE.read_text(encoding="utf-8")
        texts: dict[str, str] = {}
        for module in MODULES.values():
            path, _, generator = module.generator.partition(":")
            if generator in without:
                continue
            names = ", ".join(f"{name}=None" for name, _ in module.arguments)
            given = gives.get(module.name, module.name)
            text = f"\n\ndef {generator}({names}):\n    return Spec({given!r})\n"
            texts[path] = texts.get(path, fake) + text
        for path, text in texts.items():
            file = package / "jit" / f"{path.rpartition('.')[2]}.py"
            file.write_text(text, encoding="utf-8")
        self.monkeypatch.syspath_prepend(str(self.site))
        self.look_again()

    def has_gpus(self, *numbers):
        devices = tuple(device_of(sm, index) for index, sm in enumerate(numbers))
        for module in (gpus,):
            self.monkeypatch.setattr(module, "detect_devices", lambda: devices)
        self.look_again()

    def behaves(self, **how):
        """Tell the worker's FlashInfer how to compile: SECONDS, FAIL, CHILD, JOBS_LOG."""
        for name, value in how.items():
            self.monkeypatch.setenv(f"FAKE_FLASHINFER_{name.upper()}", str(value))

    def look_again(self):
        toolchain.forget()
        states.forget()
        installed.forget()
        compile_cuda.nvcc_version.cache_clear()

    def library(self, name, folder="90a"):
        cache = self.workspace / ".cache" / "flashinfer" / "0.7.2.post1"
        return cache / folder / "cached_ops" / name / f"{name}.so"

    @property
    def compiled(self):
        """The modules that were compiled, in the order in which they were begun."""
        if not self.runs.exists():
            return []
        lines = self.runs.read_text(encoding="utf-8").splitlines()
        return [line.split()[1] for line in lines if line.startswith("begin ")]


def device_of(sm, index=0):
    arch = Arch.parse(str(sm))
    return DeviceProfile(
        name=f"sm{sm}", title=f"a GPU of sm {sm}", arch=arch, is_present=True, index=index
    )
