"""Libraries that are not compiled when a sweep begins: compiled first, or waited for by a cell."""

import threading
from pathlib import Path

import pytest

from quantmux.capability.profiles import PROFILES
from quantmux.errors import BuildError, NotBuiltError
from quantmux.registry import BackendInfo, Registry, hookimpl
from quantmux.registry.library_unit import LibraryMade, LibraryUnit
from quantmux.testing import engine
from quantmux.testing.cell import Verdict
from quantmux.testing.sweep_libraries import compile_libraries, missing_libraries

H200 = PROFILES["h200"].replace(is_present=True, index=0)


class Acme:
    __name__ = "acme"

    def __init__(self, *units):
        self.units = units

    @hookimpl
    def quantmux_backend(self):
        return BackendInfo("acme", "1")

    @hookimpl
    def quantmux_kernels(self):
        return ()

    @hookimpl
    def quantmux_libraries(self):
        return self.units


@pytest.fixture
def made():
    return []


@pytest.fixture
def registry_with(made):
    def unit(name, state, kernel="acme/one", target="90a", failure=None):
        def make(_order):
            made.append(name)
            if failure is not None:
                raise failure
            return LibraryMade(Path(name), seconds=7.0)

        return LibraryUnit(name, target, (kernel,), make, state)

    def build(*units):
        return Registry.of({"acme": Acme(*(unit(**fields) for fields in units))})

    return build


def test_what_the_kernels_lack_on_the_gpu_is_compiled_and_nothing_else(registry_with, made):
    registry = registry_with(
        {"name": "wanted", "state": "missing"},
        {"name": "begun", "state": "building"},
        {"name": "there", "state": "built"},
        {"name": "elsewhere", "state": "missing", "target": "100f"},
        {"name": "other", "state": "missing", "kernel": "acme/two"},
        {"name": "hopeless", "state": "impossible"},
        {"name": "refused", "state": "failed"},
    )
    notes = compile_libraries(registry, {"acme/one"}, H200)
    assert sorted(made) == ["begun", "wanted"]
    assert notes == ["2 libraries were compiled first, the longest in 7 s"]


@pytest.mark.parametrize("device", [PROFILES["h200"], PROFILES["cpu"]], ids=["absent", "cpu"])
def test_for_a_device_that_runs_no_cell_nothing_is_compiled(registry_with, made, device):
    registry = registry_with({"name": "wanted", "state": "missing"})
    assert compile_libraries(registry, {"acme/one"}, device) == []
    assert made == []


def test_one_that_does_not_compile_is_noted_and_costs_its_own_cells_only(registry_with):
    failure = BuildError("nvcc refuses", code="compile")
    registry = registry_with(
        {"name": "bad", "state": "missing", "failure": failure},
        {"name": "good", "state": "missing"},
    )
    notes = compile_libraries(registry, {"acme/one"}, H200)
    assert notes == [
        "1 libraries were compiled first, the longest in 7 s",
        "library bad for 90a: nvcc refuses",
    ]


def test_a_plugin_that_cannot_say_what_it_compiles_does_not_end_the_sweep():
    registry = Registry.of({"acme": Acme("rubbish")})
    assert missing_libraries(registry, {"acme/one"}, H200) == []


def test_a_cell_waits_for_a_library_that_is_being_compiled(registry, cpu, monkeypatch):
    from kernels_under_test import Told

    ready = threading.Event()
    asked = []
    bind = Told.bind

    def late(self, *args):
        asked.append(ready.is_set())
        if not ready.is_set():
            threading.Timer(0.1, ready.set).start()
            raise NotBuiltError("being compiled", ready=ready)
        return bind(self, *args)

    monkeypatch.setattr(Told, "bind", late)
    told = registry()
    served = [
        cell
        for cell in engine.cells(told, cpu, checks=("numbers",))
        if cell.case.m and cell.case.config.operand.name == "fp8_token"
    ]
    assert engine.run_cell(served[0], told, cpu).verdict is Verdict.AGREES
    assert asked == [False, True]
