"""A machine with a compiler that behaves as told, and one small unit."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from quantmux.capability.arch import Arch
from quantmux.registry import default
from quantmux.testing import compile_cuda
from quantmux_cutlass.build import background, header_digest, library, toolchain
from quantmux_cutlass.build.settings import cache_folder
from quantmux_cutlass.units import Unit

HERE = Path(__file__).parent


@pytest.fixture
def options(monkeypatch):
    """The plugin's options; a test may fill them."""
    given: dict[str, object] = {}
    monkeypatch.setattr(default, "plugin_options", lambda _name: dict(given))
    return given


@pytest.fixture
def machine(tmp_path, monkeypatch, options):
    """A machine whose nvcc is the fake one, whose device is an H200, with no headers of CUTLASS."""
    del options
    return Machine(tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def _everything_forgotten():
    forget()
    yield
    forget()


def forget():
    background.forget()
    library.forget()
    toolchain.forget()
    header_digest.forget()
    compile_cuda.nvcc_version.cache_clear()


class Machine:
    def __init__(self, folder, monkeypatch):
        self.folder, self.monkeypatch = folder, monkeypatch
        self.log = folder / "compiled.log"
        self.sources = folder / "sources"
        self.sources.mkdir()
        for name in ("tiny.cu", "tiny.cuh"):
            shutil.copy(HERE / name, self.sources)
        for name in toolchain._LOOKS_AT:
            if name != "PATH":
                monkeypatch.delenv(name, raising=False)
        self.nvcc = self.program("nvcc", HERE / "fake_nvcc.py")
        monkeypatch.setenv("CUDA_HOME", str(folder / "cuda"))
        monkeypatch.setenv("FAKE_LOG", str(self.log))
        monkeypatch.setattr(toolchain, "find_headers", lambda: self.headers)
        monkeypatch.setattr(library, "device_arch", lambda _index: self.arch)
        self.headers = None
        self.arch = Arch.parse("90")

    def program(self, name, script):
        """Put a program into the CUDA folder."""
        path = self.folder / "cuda" / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def mood(self, text):
        """Let the compiler behave so from now on."""
        self.monkeypatch.setenv("FAKE_NVCC", text)

    def version(self, text):
        """Let the compiler be of another version."""
        self.monkeypatch.setenv("FAKE_VERSION", text)
        forget()

    def cutlass(self, version, text="// a header\n"):
        """Give the machine a tree of CUTLASS headers."""
        include = self.folder / "include"
        (include / "cutlass").mkdir(parents=True, exist_ok=True)
        (include / "cute").mkdir(exist_ok=True)
        numbers = zip(("MAJOR", "MINOR", "PATCH"), version.split("."), strict=True)
        lines = [f"#define CUTLASS_{name} {number}\n" for name, number in numbers]
        (include / "cutlass" / "version.h").write_text("".join(lines))
        (include / "cute" / "layout.hpp").write_text(text)
        self.headers = include
        forget()
        return include

    def unit(self, **changes):
        """Give the small unit."""
        fields = {
            "name": "tiny",
            "source": str(self.sources / "tiny.cu"),
            "targets": ("90a", "100f"),
            "seconds": 3.0,
            "memory_gib": 0.2,
        }
        return Unit(**{**fields, **changes})

    @property
    def compiled(self):
        """How often the compiler was run."""
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    @property
    def left(self):
        """What lies in the folders that builds work in."""
        root = cache_folder() / "work"
        return sorted(item.name for item in root.iterdir()) if root.exists() else []

    def python(self, code, **environment):
        """Start a process that has imported what is needed, with this machine's compiler."""
        head = (
            "import sys\n"
            "from quantmux.registry import default\n"
            "default.plugin_options = lambda _name: {}\n"
            "from quantmux_cutlass.build import toolchain\n"
            "toolchain.find_headers = lambda: None\n"
            "from quantmux_cutlass.units import Unit\n"
            "from quantmux_cutlass.build.maker import *\n"
            f"unit = Unit(**{dataclass_fields(self.unit())!r})\n"
        )
        return subprocess.Popen(
            [sys.executable, "-c", head + code],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def dataclass_fields(unit):
    names = ("name", "source", "targets", "seconds", "memory_gib")
    return {name: getattr(unit, name) for name in names}
