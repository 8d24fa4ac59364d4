"""The table of modules, held against the real library: its generators, and one real compilation."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from quantmux.errors import BuildError
from quantmux_flashinfer import catalog
from quantmux_flashinfer.jit import making, states, toolchain, variables
from quantmux_flashinfer.jit.linking import HEADERS, LIBRARIES
from quantmux_flashinfer.jit.modules import MODULES

SPECS = """
import json, sys
from quantmux_flashinfer.jit.modules import MODULES
from quantmux_flashinfer.jit.worker import _spec
found = {}
for name, module in MODULES.items():
    if module.cubins:
        continue
    spec = _spec(module)
    flags = [*(spec.extra_ldflags or ()), *(spec.extra_cuda_cflags or ())]
    found[name] = {"units": len(spec.sources), "flags": flags, "where": str(spec.jit_library_path)}
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def theirs(installed, tmp_path_factory):
    """What the real generators give, for every architecture at once, in a process of its own."""
    del installed
    folder = tmp_path_factory.mktemp("specs")
    home = folder / "toolkit"
    (home / "bin").mkdir(parents=True)
    text = "Cuda compilation tools, release 13.0, V13.0.88"
    (home / "bin" / "nvcc").write_text(f"#!/bin/sh\necho '{text}'\n", encoding="utf-8")
    (home / "bin" / "nvcc").chmod(0o755)
    env = {
        **os.environ,
        "CUDA_HOME": str(home),
        "FLASHINFER_WORKSPACE_BASE": str(folder),
        "FLASHINFER_CUDA_ARCH_LIST": "8.9 9.0a 10.0a 10.3a 10.7a 11.0a 12.0f 12.1a",
        "FLASHINFER_NO_DOWNLOAD": "1",
        "FLASHINFER_LOGGING_LEVEL": "error",
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
    }
    done = subprocess.run(
        [sys.executable, "-P", "-c", SPECS],
        capture_output=True, text=True, check=False, timeout=120, env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", [name for name, module in MODULES.items() if not module.cubins])
def test_the_library_describes_the_module_as_the_table_does(theirs, name):
    module, found = MODULES[name], theirs[name]
    assert found["units"] == module.units
    linked = {flag.removeprefix("-l") for flag in found["flags"] if flag.startswith("-l")}
    assert linked - {"cuda", "cudart", "ineinfo"} == set(module.libraries)
    assert found["where"].endswith(f"/cached_ops/{name}/{name}.so")


def test_the_two_generators_that_ask_for_downloads_are_those_of_the_table(installed):
    from flashinfer.jit import gemm

    del installed
    for module in (module for module in MODULES.values() if module.cubins):
        path, _, name = module.generator.partition(":")
        assert path == "flashinfer.jit.gemm"
        assert callable(getattr(gemm, name))


def test_every_module_that_a_kernel_loads_is_in_the_table_for_its_gpus():
    for offer in catalog.offers():
        for use in offer.entry.modules:
            assert use.name in MODULES, offer.spec.id


def test_what_modules_need_is_looked_for():
    for module in MODULES.values():
        assert set(module.headers) <= HEADERS.keys()
        assert set(module.libraries) <= set(LIBRARIES)
        assert module.units >= 1
        assert module.seconds > 0


@pytest.fixture
def real_nvcc(installed, tmp_path, monkeypatch):
    """The compiler of this machine, and a folder of its own for what it makes."""
    del installed
    variables.take_back()
    for name in ("FLASHINFER_CUDA_ARCH_LIST", "FLASHINFER_EXTRA_LDFLAGS"):
        monkeypatch.delenv(name, raising=False)
    # the library that this process has imported has settled on its folder: look as if it had not
    for name in [n for n in sys.modules if n.partition(".")[0] == "flashinfer"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("FLASHINFER_WORKSPACE_BASE", str(tmp_path))
    toolchain.forget()
    refused = states.refusal("silu_and_mul", "90a")
    if refused is not None:
        pytest.skip(str(refused))
    yield
    variables.take_back()


@pytest.mark.nvcc
@pytest.mark.usefixtures("real_nvcc")
def test_what_a_worker_compiled_is_not_compiled_again_by_a_process_that_calls_it():
    made = making.make("silu_and_mul", "90a")
    assert made.now
    assert states.state_of("silu_and_mul", "90a")[0] is states.State.BUILT
    folder = made.path.parent
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    program = (
        "from quantmux_flashinfer.jit.environment import apply\n"
        "apply()\n"
        "from flashinfer.jit.activation import gen_act_and_mul_module\n"
        "gen_act_and_mul_module('silu').build(verbose=True, need_lock=True)\n"
    )
    # as on a machine with an H200, whose architecture FlashInfer spells itself
    env = {
        **os.environ,
        "FLASHINFER_CUDA_ARCH_LIST": "9.0",
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
    }
    variables.take_back()
    for name in ("FLASHINFER_EXTRA_LDFLAGS", "CUDA_HOME"):
        if name not in os.environ:
            env.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True, text=True, check=False, timeout=120, env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "no work to do" in done.stdout
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before


@pytest.mark.nvcc
@pytest.mark.usefixtures("real_nvcc")
def test_a_compiler_that_refuses_is_heard(monkeypatch):
    monkeypatch.setenv("FLASHINFER_EXTRA_CUDAFLAGS", "--no-such-option")
    toolchain.forget()
    with pytest.raises(BuildError) as caught:
        making.make("silu_and_mul", "90a")
    assert caught.value.code == "compile"
    assert any("no-such-option" in line for line in caught.value.facts)
