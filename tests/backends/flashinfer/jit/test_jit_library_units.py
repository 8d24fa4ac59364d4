from __future__ import annotations

import json
import threading
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from quantmux.capability.arch import Arch
from quantmux.cli.app import app
from quantmux.errors import BuildError
from quantmux.registry.library_unit import STATES, BuildOrder, library_problem
from quantmux_flashinfer import catalog
from quantmux_flashinfer.entries import ModuleUse
from quantmux_flashinfer.jit import library_units
from quantmux_flashinfer.jit.modules import MODULES

USERS = {
    "gemm": ("flashinfer/linear_fp8_bmm_cublas", "flashinfer/linear_fp8_mm_cublas"),
    "fp4_quantization_103": ("flashinfer/quantize_nvfp4",),
}


@pytest.fixture
def kernels(monkeypatch):
    """Three kernels: two that load gemm, one that loads a module of one GPU."""
    monkeypatch.setattr(library_units, "users_of_modules", lambda: USERS)
    monkeypatch.setattr(library_units, "_users_on", lambda name, _target: USERS[name])


def test_the_kernels_of_a_module_are_those_whose_entry_names_it(monkeypatch):
    def offer(kernel, *uses):
        entry = SimpleNamespace(modules=uses)
        return SimpleNamespace(spec=SimpleNamespace(id=f"flashinfer/{kernel}"), entry=entry)

    offers = (
        offer("linear_fp8_bmm_cublas", ModuleUse("gemm")),
        offer("linear_fp8_mm_cublas", ModuleUse("gemm")),
        offer("quantize_nvfp4", ModuleUse("fp4_quantization_103", ("103",))),
        offer("without_any"),
    )
    monkeypatch.setattr(catalog, "offers", lambda: offers)
    assert library_units.users_of_modules() == USERS


def units(name=None):
    found = library_units.library_units()
    return [unit for unit in found if name in (None, unit.name)]


@pytest.mark.usefixtures("machine", "kernels")
def test_a_unit_for_each_module_that_a_kernel_loads_and_each_gpu_that_it_is_for():
    assert {unit.name for unit in units()} == USERS.keys()
    targets = [unit.target for unit in units("gemm")]
    assert targets == ["89", "90a", "100a", "103a", "107a", "110a", "120f", "121a"]
    (quantizer,) = units("fp4_quantization_103")
    assert quantizer.target == "103a"
    kernels = units("gemm")[0].kernels
    assert kernels == ("flashinfer/linear_fp8_bmm_cublas", "flashinfer/linear_fp8_mm_cublas")


@pytest.mark.usefixtures("kernels")
def test_where_several_kinds_of_gpus_are_one_unit_holds_them_all(machine):
    machine.has_gpus(89, 90)
    targets = [unit.target for unit in units("gemm")]
    assert targets == ["89+90a", "100a", "103a", "107a", "110a", "120f", "121a"]
    assert units("gemm")[0].runs_on(Arch.parse("90"))


@pytest.mark.usefixtures("machine")
def test_a_unit_names_only_kernels_that_load_it_on_its_gpu():
    blackwell = {unit.target: unit.kernels for unit in units("gemm_sm120")}
    assert blackwell.keys() == {"120f", "121a"}
    assert all(k.endswith("_sm12x") for kernels in blackwell.values() for k in kernels)
    assert not any(k.endswith("_sm12x") for u in units("gemm_sm100") for k in u.kernels)


@pytest.mark.usefixtures("machine")
def test_what_the_backend_really_gives_is_what_the_core_takes():
    for unit in units():
        assert library_problem(unit, "flashinfer") is None
        assert unit.state in STATES
        assert unit.name in MODULES


@pytest.mark.usefixtures("kernels")
def test_a_unit_says_why_it_cannot_be_made(machine):
    (machine.home / "include" / "cublasLt.h").unlink()
    machine.look_again()
    unit = units("gemm")[1]
    assert unit.state == "impossible"
    assert "cublasLt.h" in unit.reason
    assert unit.hint.startswith("pip install nvidia-cublas")


@pytest.mark.usefixtures("kernels")
def test_quantmux_build_makes_the_modules_of_a_target(machine):
    order = BuildOrder(threading.Event())
    unit = next(unit for unit in units("gemm") if unit.target == "90a")
    made = unit.make(order)
    assert made.path == machine.library("gemm")
    assert not made.was_there
    assert made.bytes == 4
    assert next(u for u in units("gemm") if u.target == "90a").state == "built"
    assert unit.make(order).was_there


@pytest.mark.usefixtures("kernels")
def test_a_copy_has_the_form_that_flashinfer_loads_without_a_compiler(machine):
    shipped = machine.folder / "shipped"
    unit = next(unit for unit in units("gemm") if unit.target == "90a")
    made = unit.make(BuildOrder(threading.Event(), into=shipped))
    assert made.path == shipped / "90a" / "gemm" / "gemm.so"
    assert made.path.read_bytes() == machine.library("gemm").read_bytes()
    # in an image of such GPUs it belongs here; from then on nvcc may be gone
    image = machine.site / "flashinfer" / "data" / "aot"
    image.mkdir(parents=True)
    made.path.parent.rename(image / "gemm")
    (machine.home / "bin" / "nvcc").unlink()
    machine.library("gemm").unlink()
    machine.look_again()
    assert {unit.state for unit in units("gemm")} == {"prebuilt"}


@pytest.mark.usefixtures("kernels")
def test_a_copy_that_cannot_be_written_says_so(machine):
    file = machine.folder / "a_file"
    file.touch()
    unit = next(unit for unit in units("gemm") if unit.target == "90a")
    with pytest.raises(BuildError) as caught:
        unit.make(BuildOrder(threading.Event(), into=file))
    assert caught.value.code == "cache"


@pytest.mark.usefixtures("kernels")
def test_the_command_lists_and_makes_them(machine):
    runner = CliRunner()
    listed = runner.invoke(app, ["build", "flashinfer", "--list", "--json"])
    assert listed.exit_code == 0, listed.output
    found = json.loads(listed.stdout)["libraries"]
    assert {unit["name"] for unit in found} >= {"gemm"}
    arguments = ["build", "flashinfer", "--arch", "90a", "--json"]
    done = runner.invoke(app, arguments)
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)["libraries"]
    assert [(unit["name"], unit["state"]) for unit in made] == [("gemm", "built")]
    assert machine.compiled == ["gemm"]
    again = json.loads(runner.invoke(app, arguments).stdout)["libraries"]
    assert [(unit["name"], unit["state"]) for unit in again] == [("gemm", "there")]


@pytest.mark.usefixtures("kernels")
def test_the_command_fails_with_the_compilers_words(machine):
    machine.behaves(fail="bmm.cu(9): error: something is wrong")
    done = CliRunner().invoke(app, ["build", "flashinfer", "--arch", "90a"])
    assert done.exit_code == 1
    assert "something is wrong" in done.output
