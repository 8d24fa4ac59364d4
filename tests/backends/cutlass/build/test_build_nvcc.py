"""The real compiler: what the strict fake stands for, and the guard against a wrong target."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from quantmux.capability.arch import Arch
from quantmux.errors import BuildError
from quantmux.testing.compile_cuda import find_nvcc
from quantmux_cutlass.build import library as loading
from quantmux_cutlass.build.library import library
from quantmux_cutlass.build.making import make
from quantmux_cutlass.interfaces import ALWAYS, INTERFACES
from quantmux_cutlass.units import Unit

HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.nvcc,
    pytest.mark.skipif(find_nvcc() is None, reason="nvcc is not on this machine"),
]


def tiny(*targets):
    return Unit("tiny", str(HERE / "tiny.cu"), targets, seconds=4.0, memory_gib=0.3)


def test_nvcc_makes_a_library_that_exports_the_abi_and_nothing_else(options, monkeypatch):
    del options
    unit = tiny("90a+100f")
    entry = make(unit, "90a+100f").entry
    assert entry.record.memory_mib > 20
    for part in ("90a", "100f"):
        assert entry.code(part).read_bytes()[:4] == b"\x7fELF"
    monkeypatch.setattr(loading, "device_arch", lambda _index: Arch.parse("9.0"))
    found = library(unit, "90a+100f", 0)
    assert found.about["digest"] == entry.record.digest
    assert found.plan_bytes == 64
    if shutil.which("nm"):
        lines = subprocess.run(
            ["nm", "-D", "--defined-only", str(found.path)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        assert {line.split()[-1] for line in lines} == {*ALWAYS, *INTERFACES["linear"]}


def test_code_for_a_target_without_a_letter_does_not_compile(options):
    del options
    with pytest.raises(BuildError) as caught:
        make(tiny("90"), "90")
    assert caught.value.code == "compile"
    assert "compile for a target with a letter" in str(caught.value)
