"""The plugin as data: its kernels, their libraries, and what it says of a machine."""

import importlib
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

import quantmux_cutlass
from quantmux.capability.arch import Arch
from quantmux.capability.detect import HERE_CPU
from quantmux.capability.device import DeviceProfile
from quantmux.capability.profiles import PROFILES
from quantmux.config import LinearConfig
from quantmux.errors import BuildError, NotBuiltError
from quantmux.registry import Registry, default
from quantmux.registry.library_unit import BuildOrder
from quantmux.registry.protocol import CompilesAhead, missing_methods
from quantmux.runtime.context import Context
from quantmux.runtime.quarantine import Quarantine
from quantmux.testing.checks.sources import import_closure
from quantmux_cutlass import availability, catalog, demand, plugin, status, versions
from quantmux_cutlass.build import toolchain
from quantmux_cutlass.build.background import BackgroundBuild
from quantmux_cutlass.build.state import State
from quantmux_cutlass.build.toolchain import Missing, Toolchain
from quantmux_cutlass.units import Unit

FOLDER = Path(quantmux_cutlass.__file__).parent
KERNELS = plugin.quantmux_kernels()
FRAME = {
    "__init__.py",
    "catalog.py",
    "instructions.py",
    "library_units.py",
    "plugin.py",
    "status.py",
    "versions.py",
}
"""Files that no kernel runs through."""

TOOLS = Toolchain(Path("nvcc"), "13.0.88", "g++ 12", Path("include"), "4.5.0")
NO_NVCC = Missing(("nvcc: nowhere",), "install the CUDA toolkit")


@pytest.fixture
def registry():
    return Registry.of({"cutlass": plugin})


@pytest.fixture
def here(monkeypatch, tmp_path):
    """Say what this machine has: a compiler, headers, options, libraries that are there."""
    options = {"cache": str(tmp_path / "libraries")}
    monkeypatch.setattr(default, "plugin_options", lambda _name: dict(options))

    def say(tools=TOOLS, built=(), **more):
        options.update(more)
        versions.forget()

        def state(unit, _target):
            return (State.BUILT, "") if unit.name in built else (State.MISSING, "about 9 s")

        for module in (availability, status, versions):
            monkeypatch.setattr(module, "find_toolchain", lambda: tools)
        for module in (availability, status):
            monkeypatch.setattr(module, "state_of", state)

    return say


def gpu(sm="90", name="h200"):
    return DeviceProfile(
        name=name, title="Some GPU", arch=Arch.parse(sm), is_present=True, index=0, sm_count=132
    )


def linear(n=4096, k=7168, scheme="fp8_channel_token"):
    return LinearConfig(in_features=k, out_features=n, scheme=scheme)


NVFP4 = linear(scheme="nvfp4")


def rejection(registry, config, device, kernel):
    found = Context(registry, Quarantine()).survey(config, device).rejected[kernel]
    return {str(reason.code): reason for reason in found}


def test_it_loads_with_all_its_kernels(registry):
    (record,) = registry.plugins
    assert (record.state, record.error) == ("ok", None)
    assert record.kernels == len(KERNELS) > 0


@pytest.mark.parametrize("spec", KERNELS, ids=lambda spec: spec.id)
def test_a_kernel_has_what_its_role_asks_and_compiles_ahead(spec):
    module, _, name = spec.load.partition(":")
    kernel = getattr(importlib.import_module(module), name)
    assert missing_methods(spec.op, kernel) == ()
    assert isinstance(kernel, CompilesAhead)
    assert spec.capability.launches is not None
    assert {"cuda_graph", "deterministic"} <= spec.capability.tags
    assert spec.summary


@pytest.mark.parametrize("spec", KERNELS, ids=lambda spec: spec.id)
def test_the_sources_of_a_kernel_are_all_that_it_runs_through(spec):
    absent = [name for name in spec.sources if not (FOLDER / name).is_file()]
    assert absent == []
    read = import_closure(spec.load.partition(":")[0], FOLDER)
    read |= import_closure(spec.veto.__module__, FOLDER)
    used = {file.relative_to(FOLDER).as_posix() for file in read}
    assert used - set(spec.sources) == set()
    assert any(name.endswith(".cu") for name in spec.sources)


@pytest.mark.parametrize("offer", catalog.offers(), ids=lambda offer: offer.spec.id)
def test_a_kernel_has_a_library_for_each_of_its_architectures(offer):
    assert offer.units
    for arch in offer.spec.capability.arch:
        number = Arch.parse("".join(c for c in str(arch) if c.isdigit()))
        assert any(toolchain.target_for(unit, number) for unit in offer.units), arch


def test_every_unit_belongs_to_a_kernel_and_has_a_name_of_its_own():
    made = [
        unit
        for _, name in catalog.MODULES
        for unit in importlib.import_module(f"quantmux_cutlass.{name}").units()
    ]
    assert set(made) == set(catalog.all_units())
    assert len({unit.name for unit in made}) == len(made)
    assert all(unit.self_test for unit in made)


def test_every_file_of_the_package_is_a_source_of_a_kernel_or_of_the_frame():
    sources = {name for spec in KERNELS for name in spec.sources}
    files = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.py")}
    files |= {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.cu*")}
    specs = {name for name in files if Path(name).name.startswith("specs")}
    packages = {name for name in files if name.endswith("/__init__.py")}
    assert files - sources - FRAME - specs - packages == set()


def test_listing_kernels_and_libraries_imports_neither_torch_nor_cutlass():
    code = (
        "import sys\nfrom quantmux_cutlass import plugin\nplugin.quantmux_kernels()\n"
        "plugin.quantmux_libraries()\n"
        "sys.exit(' '.join({'torch', 'cutlass', 'flashinfer'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_table_of_the_readme_is_the_plugin_s():
    text = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    rows = [row for row in rows if len(row) == 4]
    told = {row[0].strip("| `"): (row[1], row[2], row[3].strip(" |")) for row in rows}
    assert told == {
        spec.id.partition("/")[2]: (
            spec.summary,
            " ".join(f"sm{arch}" for arch in map(str, spec.capability.arch)),
            str(spec.capability.launches),
        )
        for spec in KERNELS
    }


def test_on_a_cpu_it_is_unavailable_and_says_where_libraries_would_lie(registry, here, tmp_path):
    here()
    found = registry.probe(HERE_CPU)["cutlass"]
    assert found.state == "unavailable"
    assert found.details["nvcc"].startswith("13.0.88 at ")
    assert found.details["cutlass"].startswith("4.5.0 at ")
    assert found.details["libraries in"] == str(tmp_path / "libraries")


def test_without_a_compiler_it_is_unavailable_with_what_to_install(registry, here):
    here(NO_NVCC)
    found = registry.probe(gpu())["cutlass"]
    assert found.state == "unavailable"
    assert any("nvcc >= 12.8" in reason for reason in found.reasons)
    assert found.hint == "install the CUDA toolkit"


def test_without_a_compiler_libraries_that_are_there_make_it_ok(registry, here):
    name = next(u.name for u in catalog.all_units() if "90a" in u.targets)
    here(NO_NVCC, built=[name])
    found = registry.probe(gpu())["cutlass"]
    assert found.state == "ok"
    assert "1 built" in found.details["libraries"]


def test_the_probe_says_how_libraries_that_are_missing_are_compiled(registry, here):
    here()
    found = registry.probe(gpu())["cutlass"]
    assert found.state == "ok"
    assert found.hint.startswith("quantmux build cutlass; else ")
    here(built=[unit.name for unit in catalog.all_units()])
    assert Registry.of({"cutlass": plugin}).probe(gpu())["cutlass"].hint is None


def test_an_option_that_is_none_is_told_by_the_probe_and_no_exception(registry, here):
    here(build="sometimes")
    found = registry.probe(gpu())["cutlass"]
    assert found.state == "unavailable"
    assert "'sometimes'" in " ".join(found.reasons)


def test_a_kernel_without_compiler_and_library_is_rejected_with_what_to_install(registry, here):
    here(NO_NVCC, built=["nothing"])
    found = rejection(registry, linear(), gpu(), "cutlass/linear_fp8")
    assert found["unavailable"].hint == "install the CUDA toolkit"
    # the backend as a whole is usable as soon as one library is there; then each says its own
    here(NO_NVCC, built=[u.name for u in catalog.all_units() if u.name.startswith("fp8_stream")])
    registry = Registry.of({"cutlass": plugin})
    found = rejection(registry, linear(), gpu(), "cutlass/linear_fp8")
    assert found["needs_tool"].required == "nvcc >= 12.8"
    assert found["needs_tool"].hint == "install the CUDA toolkit"
    assert "needs_tool" not in rejection(registry, linear(), gpu(), "cutlass/linear_fp8_small_m")


def test_headers_that_are_too_old_reject_what_needs_newer_ones_only(registry, here):
    here(replace(TOOLS, headers_version="4.2.0"))
    found = rejection(registry, NVFP4, gpu("100", "b200"), "cutlass/linear_nvfp4")
    assert "4.2.0" in found["needs_package"].actual
    assert "needs_package" not in rejection(registry, linear(), gpu(), "cutlass/linear_fp8")


def test_a_kernel_needs_only_the_libraries_that_its_config_chooses(registry, here):
    offer = next(o for o in catalog.offers() if o.spec.id == "cutlass/linear_nvfp4")
    config, device = NVFP4, gpu("100", "b200")
    needed = {u.name for u in availability._needed(offer.spec, offer.units, config, device)}
    assert needed < {unit.name for unit in offer.units}
    here(NO_NVCC, built=needed)
    assert "needs_tool" not in rejection(registry, config, device, "cutlass/linear_nvfp4")
    here(NO_NVCC, built=sorted(needed)[1:])
    assert "needs_tool" in rejection(
        Registry.of({"cutlass": plugin}), config, device, "cutlass/linear_nvfp4"
    )


def test_where_nothing_may_be_compiled_a_kernel_without_library_is_not_selected(registry, here):
    here(build="never", built=["fp8_stream"])
    found = rejection(registry, linear(), gpu(), "cutlass/linear_fp8")
    assert found["not_built"].hint == "quantmux build cutlass"


def test_for_a_named_gpu_the_compiler_is_assumed_and_listed(here):
    here(NO_NVCC)
    context = Context(default.default_registry(), Quarantine())
    policy = {"force": "cutlass/linear_fp8"}
    found = context.select(linear(), PROFILES["h200"], call_overrides=policy)
    assert found.kernels[-1] == "cutlass/linear_fp8"
    assert any("its libraries" in line for line in found.assumptions)


def test_evidence_names_the_compiler_and_the_headers_where_they_count(here):
    here()
    found = {spec.id: spec.versions() for spec in KERNELS}
    assert found["cutlass/linear_nvfp4"] == {"nvcc": "13.0.88", "cutlass": "4.5.0"}
    assert found["cutlass/linear_fp8_small_m"] == {"nvcc": "13.0.88"}
    here(NO_NVCC)
    assert KERNELS[0].versions() == {}
    versions.forget()


def test_libraries_are_one_for_each_unit_and_target(registry, here):
    here()
    found = registry.libraries("cutlass")
    units = catalog.all_units()
    assert {(u.name, u.target) for u in found} == {(u.name, t) for u in units for t in u.targets}
    assert all(unit.kernels for unit in found)


UNITS = tuple(Unit(name, f"{name}.cu", ("90a",), seconds=s) for name, s in (("a", 9), ("b", 90)))


@pytest.fixture
def building(monkeypatch):
    """Libraries a and b are not there; give the builds that were begun."""
    begun = {}

    def background(unit, target):
        return begun.setdefault(unit, BackgroundBuild(unit, target))

    def library(unit, target, _index):
        build = background(unit, target)
        if build.error is not None:
            raise build.error
        if not build.done.is_set():
            raise NotBuiltError(f"{unit.name}, about {build.seconds_left} s", ready=build.done)
        return f"library {unit.name}"

    monkeypatch.setattr(demand, "library", library)
    monkeypatch.setattr(demand, "build_in_background", background)
    monkeypatch.setattr(demand, "build_mode", lambda: "background")
    return begun


def test_all_libraries_of_a_layer_are_begun_at_once_and_spoken_of_as_one(building):
    with pytest.raises(NotBuiltError) as caught:
        demand.libraries(UNITS, gpu())
    error = caught.value
    assert set(building) == set(UNITS)
    assert error.headline == (
        "a for 90a, b for 90a: being compiled in the background, about 90 s each"
    )
    for unit in UNITS:
        assert not error.is_ready
        building[unit].finish(Path(unit.name), None)
    assert error.wait(1)
    assert demand.libraries(UNITS, gpu()) == {u: f"library {u.name}" for u in UNITS}


def test_what_does_not_compile_is_told_before_what_is_not_compiled_yet(building):
    with pytest.raises(NotBuiltError):
        demand.libraries(UNITS, gpu())
    building[UNITS[1]].finish(None, BuildError("nvcc refuses b"))
    with pytest.raises(BuildError, match="nvcc refuses b") as caught:
        demand.libraries(UNITS, gpu())
    assert not isinstance(caught.value, NotBuiltError)


def test_a_device_that_no_target_runs_on_is_refused(building):
    with pytest.raises(BuildError, match="no code for sm100"):
        demand.libraries(UNITS, gpu("100"))
    assert building == {}


def test_a_build_that_nobody_waits_for_ends(here):
    here()
    stop = threading.Event()
    stop.set()
    (first, *_) = plugin.quantmux_libraries()
    with pytest.raises(BuildError):
        first.make(BuildOrder(stop))
