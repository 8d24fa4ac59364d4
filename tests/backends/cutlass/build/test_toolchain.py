"""What this machine can compile with: found, or told what to install. Never an exception."""

from __future__ import annotations

import pytest

from quantmux.capability.arch import Arch
from quantmux.capability.rejection import RejectionCode
from quantmux.errors import BuildError
from quantmux_cutlass import headers
from quantmux_cutlass.build import toolchain
from quantmux_cutlass.build.maker import build_now
from quantmux_cutlass.build.state import State, state_of
from quantmux_cutlass.build.toolchain import (
    Missing,
    Toolchain,
    can_build,
    find_toolchain,
    runs_on,
    target_for,
)


@pytest.fixture
def no_nvcc(machine, monkeypatch):
    """The same machine, but no nvcc anywhere."""
    monkeypatch.delenv("CUDA_HOME")
    monkeypatch.setattr(toolchain, "find_nvcc", lambda: None)
    toolchain.forget()
    return machine


def test_nvcc_is_found_in_cuda_home(machine):
    found = find_toolchain()
    assert isinstance(found, Toolchain)
    assert (found.nvcc, found.nvcc_version) == (machine.nvcc, "13.0.88")
    assert found.host.startswith("g++")
    assert (found.headers, found.headers_version, found.headers_digest) == (None, None, "")


def test_cudacxx_goes_before_cuda_home(machine, monkeypatch):
    other = machine.program("other-nvcc", machine.sources / "other.py")
    (machine.sources / "other.py").write_text("print('release 12.9, V12.9.41')")
    monkeypatch.setenv("CUDACXX", str(other))
    assert find_toolchain().nvcc_version == "12.9.41"


def test_a_machine_without_nvcc_says_what_to_install(no_nvcc):
    found = find_toolchain()
    assert isinstance(found, Missing)
    assert "nvidia-cuda-nvcc" in found.reasons[0]
    assert "install the CUDA toolkit" in found.hint
    rejection = can_build(no_nvcc.unit(), "90a", found)
    assert rejection.code is RejectionCode.NEEDS_TOOL
    assert "nvcc >= 12.8" in rejection.required
    state, reason = state_of(no_nvcc.unit(), "90a")
    assert state is State.IMPOSSIBLE
    assert "pip install nvidia-cuda-nvcc" in reason
    with pytest.raises(BuildError) as caught:
        build_now(no_nvcc.unit(), "90a")
    assert caught.value.code == "no_compiler"


def test_a_machine_without_a_host_compiler_says_so(machine, monkeypatch):
    monkeypatch.setenv("NVCC_CCBIN", str(machine.folder / "no-such-compiler"))
    found = find_toolchain()
    assert isinstance(found, Missing)
    assert "no-such-compiler is not here" in found.reasons[0]
    assert "NVCC_CCBIN" in found.hint


@pytest.mark.parametrize(
    ("version", "target", "fits"),
    [
        ("12.8.61", "90a", True),
        ("12.8.61", "100f", False),
        ("12.9.41", "100f", True),
        ("12.9.41", "90a+100f+120f", True),
        ("12.8.93", "90a+100f+120f", False),
        ("12.6.85", "90a", False),
        ("no version", "90a", False),
    ],
)
def test_a_family_needs_a_newer_nvcc(machine, version, target, fits):
    machine.version(version)
    rejection = can_build(machine.unit(targets=(target,)), target, find_toolchain())
    assert (rejection is None) == fits
    if rejection is not None:
        assert rejection.code is RejectionCode.NEEDS_TOOL
        assert str(machine.nvcc) in rejection.actual


@pytest.mark.parametrize(
    ("needs", "has", "fits"),
    [
        (">=4.3.5", "4.5.0", True),
        (">=4.3.5", "4.2.0", False),
        (">=4.2,<4.6", "4.7.0", False),
        (">=4.2", None, False),
        ("", None, True),
    ],
)
def test_headers_have_to_be_of_a_version_that_the_unit_takes(machine, needs, has, fits):
    if has is not None:
        machine.cutlass(has)
    rejection = can_build(machine.unit(cutlass=needs), "90a", find_toolchain())
    assert (rejection is None) == fits
    if rejection is not None:
        assert rejection.code is RejectionCode.NEEDS_PACKAGE
        assert rejection.required == f"CUTLASS headers {needs}"
        assert "set CUTLASS_PATH to a CUTLASS checkout" in rejection.hint
        # the extra's headers are of 4.2: it is no way out where they are too old
        assert ("quantmux[cutlass]" in rejection.hint) == ("4.3.5" not in needs)
        with pytest.raises(BuildError) as caught:
            build_now(machine.unit(cutlass=needs), "90a")
        assert caught.value.code == "headers"


def test_a_cutlass_path_without_headers_is_named(machine, monkeypatch):
    monkeypatch.setenv("CUTLASS_PATH", "/nowhere/cutlass")
    rejection = can_build(machine.unit(cutlass=">=4.2"), "90a", find_toolchain())
    assert "CUTLASS_PATH=/nowhere/cutlass holds no cutlass/version.h" in rejection.actual


def test_the_newest_headers_of_the_packages_are_taken_and_cutlass_path_before_them(
    tmp_path, monkeypatch
):
    def tree(name, version):
        folder = tmp_path / name
        (folder / "cutlass").mkdir(parents=True)
        numbers = zip(("MAJOR", "MINOR", "PATCH"), version.split("."), strict=True)
        text = "".join(f"#define CUTLASS_{part} {number}\n" for part, number in numbers)
        (folder / "cutlass" / "version.h").write_text(text)
        return folder

    old, new = tree("old", "4.2.0"), tree("new", "4.5.0")
    monkeypatch.delenv("CUTLASS_PATH", raising=False)
    monkeypatch.setattr(headers, "_packaged", lambda: [tmp_path / "none", old, new])
    assert headers.find_headers() == new
    monkeypatch.setenv("CUTLASS_PATH", str(old))
    assert headers.find_headers() == old
    assert headers.headers_version(old) == "4.2.0"
    checkout = tmp_path / "checkout"
    tree("checkout/include", "4.7.0")
    monkeypatch.setenv("CUTLASS_PATH", str(checkout))
    assert headers.find_headers() == checkout / "include"


@pytest.mark.parametrize(
    ("target", "device", "runs"),
    [
        ("90a", "9.0", True),
        ("90a", "10.0", False),
        ("90a", "8.9", False),
        ("100f", "10.0", True),
        ("100f", "10.3", True),
        ("100f", "11.0", False),
        ("100f", "12.0", False),
        ("100a", "10.3", False),
        ("103f", "10.0", False),
        ("120f", "12.1", True),
        ("120f", "10.0", False),
        ("90a+100f+120f", "12.0", True),
        ("90a+100f+120f", "8.0", False),
        ("90a", "cpu", False),
        ("90a", "gfx942", False),
    ],
)
def test_code_runs_on_its_architecture_or_family_and_nowhere_else(target, device, runs):
    assert runs_on(target, Arch.parse(device)) is runs


def test_the_target_for_a_device_is_the_first_that_runs_there(machine):
    unit = machine.unit(targets=("90a", "100f", "120f"))
    assert target_for(unit, Arch.parse("10.3")) == "100f"
    assert target_for(unit, Arch.parse("9.0")) == "90a"
    assert target_for(unit, Arch.parse("8.9")) is None
