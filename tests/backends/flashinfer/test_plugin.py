"""The plugin as data: its kernels, their files, its modules, and what it says of a machine."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

import quantmux_flashinfer
from quantmux.capability import needs
from quantmux.capability.arch import Arch
from quantmux.capability.detect import HERE_CPU
from quantmux.capability.device import DeviceProfile
from quantmux.capability.profiles import PROFILES
from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.config import LinearConfig
from quantmux.registry import Registry, default
from quantmux.registry.protocol import missing_methods
from quantmux.runtime.context import Context
from quantmux.runtime.quarantine import Quarantine
from quantmux.testing.checks.sources import import_closure
from quantmux_flashinfer import availability, catalog, plugin, status, versions
from quantmux_flashinfer.entries import Entry
from quantmux_flashinfer.jit.toolchain import find_toolchain
from quantmux_flashinfer.needs import FLASHINFER
from quantmux_flashinfer.surface import records
from quantmux_flashinfer.surface.compare import TESTED

FOLDER = Path(quantmux_flashinfer.__file__).parent
KERNELS = plugin.quantmux_kernels()
FRAME = {
    "__init__.py",
    "catalog.py",
    "jit/library_units.py",
    "jit/export.py",
    "needs.py",
    "plugin.py",
    "status.py",
    "surface/record.py",
    "surface/records.py",
    "versions.py",
}
"""Files that no kernel runs through."""


@pytest.fixture
def registry():
    return Registry.of({"flashinfer": plugin})


@pytest.fixture
def here(monkeypatch, tmp_path):
    """Say what this machine has: a release, modules that cannot be had, options."""
    options = {"workspace": str(tmp_path / "workspace")}
    monkeypatch.setattr(default, "plugin_options", lambda _name: dict(options))
    availability.forget()

    def say(version=TESTED, refused=None, **more):
        options.update(more)
        surface = records.recorded(version).surface if version else None
        folder = Path("site-packages/flashinfer") if version else None
        for module in (availability, status):
            monkeypatch.setattr(module, "installed_surface", lambda _names: surface)
        monkeypatch.setattr(status, "installed_folder", lambda: folder)
        monkeypatch.setattr(availability, "module_exists", lambda _name: True)
        monkeypatch.setattr(availability.states, "why_not", lambda _name, _arch: refused)
        missing = needs._missing(FLASHINFER, "not installed", FLASHINFER.install)
        monkeypatch.setattr(needs, "_package", lambda _need: None if version else missing)

    yield say
    availability.forget()


def gpu(sm="90", name="h200"):
    return DeviceProfile(
        name=name, title="Some GPU", arch=Arch.parse(sm), is_present=True, index=0, sm_count=132
    )


def linear(scheme="fp8_tensor", n=4096, k=4096):
    return LinearConfig(in_features=k, out_features=n, scheme=scheme)


def rejections(registry, config, device, kernel):
    found = Context(registry, Quarantine()).survey(config, device).rejected.get(kernel, ())
    return {str(reason.code): reason for reason in found}


def test_it_loads_with_all_its_kernels(registry):
    (record,) = registry.plugins
    assert (record.state, record.error) == ("ok", None)
    assert record.kernels == len(KERNELS) == len(catalog.offers())


@pytest.mark.parametrize("spec", KERNELS, ids=lambda spec: spec.id)
def test_a_kernel_has_what_its_role_asks(spec):
    module, _, name = spec.load.partition(":")
    kernel = getattr(importlib.import_module(module), name)
    assert missing_methods(spec.op, kernel) == ()
    assert spec.summary


def closure(module):
    return {file.relative_to(FOLDER).as_posix() for file in import_closure(module, FOLDER)}


@pytest.mark.parametrize(
    ("spec", "offer"),
    list(zip(KERNELS, catalog.offers(), strict=True)),
    ids=[spec.id for spec in KERNELS],
)
def test_the_sources_of_a_kernel_are_all_that_it_runs_through(spec, offer):
    absent = [name for name in spec.sources if not (FOLDER / name).is_file()]
    assert absent == []
    used = closure(spec.load.partition(":")[0]) | closure(spec.veto.__module__)
    if offer.spec.veto is not None:  # the one that the shared one asks first
        used |= closure(offer.spec.veto.__module__)
    assert used - set(spec.sources) == set()


def test_every_file_of_the_package_is_a_source_of_a_kernel_or_of_the_frame():
    sources = {name for spec in KERNELS for name in spec.sources}
    files = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.py")}
    # what only describes kernels is in their digests as data
    specs = set().union(*(closure(f"quantmux_flashinfer.{room}") for room in catalog.ROOMS))
    packages = {name for name in files if name.endswith("/__init__.py")}
    assert files - sources - FRAME - specs - packages == set()
    assert files >= FRAME


@pytest.mark.parametrize("offer", catalog.offers(), ids=lambda offer: offer.spec.id)
def test_a_kernel_needs_the_library_and_what_its_call_needs_beyond_it(offer):
    (spec,) = [spec for spec in KERNELS if spec.id == offer.spec.id]
    named = {need.name: need for need in spec.capability.needs}
    assert named["flashinfer-python"].version == ">=0.6.8,<0.8"
    assert named["flashinfer-python"].import_name == "flashinfer"
    for package, module in offer.entry.packages:
        assert named[package].import_name == module
    words = " ".join(need.name for need in spec.capability.needs if need.kind == "library")
    assert ("compiled" in words) is bool(offer.entry.modules)
    assert ("precompiled" in words) is offer.entry.cubins


def test_a_package_s_metadata_range_is_what_was_recorded():
    taken = SpecifierSet(FLASHINFER.version)
    assert all(taken.contains(v, prereleases=True) for v in records.versions())
    assert not any(taken.contains(v) for v in ("0.5.3", "0.6.7", "0.8.0", "1.0"))


LOOKING = """
import json, socket, sys


def refused(*_args, **_kwargs):
    raise RuntimeError("a socket was opened")


socket.socket.connect = refused
socket.getaddrinfo = refused
socket.create_connection = refused
from quantmux.cli import main

code = main(sys.argv[1:])
sys.stdout.flush()
named = {"torch", "flashinfer", "tvm_ffi", "cudnn", "cutlass", "requests"}
heavy = sorted(named & set(sys.modules))
print(json.dumps({"code": code, "heavy": heavy}))
"""


@pytest.mark.parametrize(
    "command",
    [
        ("doctor", "--device", "h200"),
        ("plugins", "show", "flashinfer"),
        ("matrix", "--device", "b200", "--op", "linear", "--installed-only"),
        ("explain", "linear", "--scheme", "nvfp4", "--n", "4096", "--k", "4096", "-d", "b200"),
        ("build", "flashinfer", "--list"),
    ],
    ids=lambda command: command[0],
)
def test_looking_imports_neither_the_library_nor_torch_and_asks_no_network(command):
    done = subprocess.run(
        [sys.executable, "-c", LOOKING, *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == {"code": 0, "heavy": []}
    assert "flashinfer" in done.stdout


def test_without_the_library_it_is_unavailable_and_says_what_to_install(registry, here):
    here(version=None)
    found = registry.probe(gpu())["flashinfer"]
    assert found.state == "unavailable"
    assert found.hint == "pip install 'quantmux[flashinfer]'"
    assert found.details["flashinfer-python"] == "not installed"


def test_on_a_cpu_and_on_a_gpu_without_kernels_it_is_unavailable(registry, here):
    here()
    assert "NVIDIA" in registry.probe(HERE_CPU)["flashinfer"].reasons[0]
    old = gpu("70", "v100")
    assert Registry.of({"flashinfer": plugin}).probe(old)["flashinfer"].reasons == (
        "no kernel for sm70",
    )


def test_the_probe_names_the_release_the_tools_and_how_many_kernels_can_be_called(registry, here):
    here()
    found = registry.probe(gpu())["flashinfer"]
    assert found.state == "ok"
    assert found.details["flashinfer-python"] == f"{TESTED} at site-packages/flashinfer"
    assert set(found.details) >= {"nvcc", "ninja", "host compiler", "build", "kernels", "modules"}
    serving = [s for s in KERNELS if any(gpu().arch in a for a in s.capability.arch)]
    assert found.details["kernels"].startswith(f"{len(serving)} for sm90: ")


NO_NINJA = Rejection(RejectionCode.NEEDS_TOOL, "ninja", "ninja", "none", "pip install ninja")


def test_where_nothing_can_be_called_it_is_unavailable_with_every_reason(
    registry, here, monkeypatch
):
    here()
    monkeypatch.setattr(status, "why_not", lambda *_asked: NO_NINJA)
    found = registry.probe(gpu())["flashinfer"]
    assert (found.state, found.hint) == ("unavailable", "pip install ninja")
    assert found.reasons == ("ninja needs ninja, found none",)


def test_what_is_only_not_compiled_does_not_take_the_backend_away(registry, here, monkeypatch):
    here()
    waits = NO_NINJA.replace(code=RejectionCode.NOT_BUILT)
    monkeypatch.setattr(status, "why_not", lambda *_asked: waits)
    found = registry.probe(gpu())["flashinfer"]
    assert found.state == "ok"
    assert found.details["kernels"].endswith(": 0 can be called")


def test_where_no_module_can_be_had_every_reason_is_told(registry, here):
    here(refused=NO_NINJA)
    found = registry.probe(gpu())["flashinfer"]
    told = str(found.reasons)
    assert "ninja needs ninja, found none" in told
    registry = Registry.of({"flashinfer": plugin})
    reason = rejections(registry, linear(), gpu(), "flashinfer/linear_fp8_bmm_cublas")
    assert reason["needs_tool"].hint == "pip install ninja"


def test_an_option_that_is_none_is_told_by_the_probe_and_no_exception(registry, here):
    here(build="sometimes")
    found = registry.probe(gpu())["flashinfer"]
    assert found.state == "unavailable"
    assert "'sometimes'" in " ".join(found.reasons)


def test_an_older_release_rejects_what_it_lacks_and_names_it(registry, here):
    here(version="0.6.18.post1")
    kernel = "flashinfer/linear_nvfp4_cutedsl_low_latency"
    (reason,) = rejections(registry, linear("nvfp4"), gpu("100", "b200"), kernel).values()
    assert str(reason.code) == "unavailable"
    assert reason.required == "flashinfer-python with mm_fp4 backend cutedsl_low_latency"
    assert reason.actual.startswith("0.6.18.post1: backends cudnn, trtllm, cutlass")


def test_for_a_named_gpu_the_library_is_assumed_and_listed(here):
    here(version=None)
    context = Context(default.default_registry(), Quarantine())
    policy = {"force": "flashinfer/linear_nvfp4_cutlass"}
    found = context.select(linear("nvfp4"), PROFILES["b200"], call_overrides=policy)
    assert found.kernels[-1] == "flashinfer/linear_nvfp4_cutlass"
    assert any("flashinfer-python" in line for line in found.assumptions)
    assert any("its modules" in line for line in found.assumptions)


def test_evidence_names_the_compiler_where_something_is_compiled(monkeypatch):
    tools = replace(find_toolchain(), version="13.0.88")
    monkeypatch.setattr(versions, "find_toolchain", lambda: tools)
    for offer, spec in zip(catalog.offers(), KERNELS, strict=True):
        made = spec.versions() if spec.versions is not None else {}
        assert made == ({"nvcc": "13.0.88"} if offer.entry.modules else {})
    assert versions.compiled_by(Entry("a:b", ())) == {}
    monkeypatch.setattr(versions, "find_toolchain", lambda: replace(tools, version=""))
    assert versions.compiled_by(catalog.offers()[0].entry) == {}


def test_modules_are_one_for_each_target_and_name_their_kernels(registry):
    found = registry.libraries("flashinfer")
    assert found
    used = {use.name for offer in catalog.offers() for use in offer.entry.modules}
    assert {unit.name for unit in found} == used
    assert all(unit.kernels for unit in found)
