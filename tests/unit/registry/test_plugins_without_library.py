"""Plugins whose library is not on the machine: they load, and say what to install."""

import importlib
import subprocess
import sys

import pytest

from quantmux.capability import needs
from quantmux.capability.profiles import PROFILES
from quantmux.registry import Registry
from quantmux_cutlass.headers import find_headers, headers_version
from quantmux_flashinfer.surface import installed


def load(name):
    return Registry.of({name: importlib.import_module(f"quantmux_{name}.plugin")})


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch):
    """No package but those a test names, no tool."""
    for variable in ("CUDA_HOME", "CUDA_PATH", "CUTLASS_PATH"):
        monkeypatch.delenv(variable, raising=False)
    needs.forget()
    yield
    needs.forget()


def test_flashinfer_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "flashinfer", None)
    needs.forget()
    installed.forget()
    status = load("flashinfer").probe(PROFILES["h200"])["flashinfer"]
    installed.forget()
    assert status.state == "unavailable"
    assert status.hint == "pip install 'quantmux[flashinfer]'"


def test_cutlass_finds_headers_and_their_version(tmp_path, monkeypatch):
    file = tmp_path / "include" / "cutlass" / "version.h"
    file.parent.mkdir(parents=True)
    file.write_text("#define CUTLASS_MAJOR 4\n#define CUTLASS_MINOR 5\n#define CUTLASS_PATCH 1\n")
    monkeypatch.setenv("CUTLASS_PATH", str(tmp_path))
    assert find_headers() == tmp_path / "include"
    assert headers_version(tmp_path / "include") == "4.5.1"
    assert headers_version(tmp_path) is None


def test_plugins_import_neither_torch_nor_their_library():
    code = (
        "import sys, importlib\n"
        "for n in ('torch', 'triton', 'cutlass', 'flashinfer'):\n"
        "    importlib.import_module(f'quantmux_{n}.plugin')\n"
        "found = {'torch', 'triton', 'cutlass', 'flashinfer'} & set(sys.modules)\n"
        "sys.exit(' '.join(found) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
