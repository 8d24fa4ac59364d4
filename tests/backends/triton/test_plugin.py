"""The plugin as data: its kernels, and what it says of devices."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import quantmux_triton
from quantmux.capability import needs
from quantmux.capability.arch import Arch
from quantmux.capability.detect import HERE_CPU
from quantmux.capability.device import DeviceProfile
from quantmux.capability.profiles import PROFILES
from quantmux.config import QuantizeConfig
from quantmux.registry import Registry
from quantmux.registry.default import default_registry
from quantmux.registry.protocol import CompilesAhead, missing_methods
from quantmux.runtime.context import Context
from quantmux.runtime.quarantine import Quarantine
from quantmux_triton import plugin
from quantmux_triton.interpreter import interpreting

FOLDER = Path(quantmux_triton.__file__).parent

pytestmark = pytest.mark.skipif(interpreting(), reason="this process interprets")


@pytest.fixture
def registry():
    return Registry.of({"triton": plugin})


def probe(registry, device):
    return registry.probe(device)["triton"]


def gpu(sm, **more):
    arch = Arch.parse(sm)
    return DeviceProfile(name="some", title="Some GPU", arch=arch, is_present=True, **more)


def test_it_loads_with_all_its_kernels(registry):
    (record,) = registry.plugins
    assert (record.state, record.error) == ("ok", None)
    assert record.kernels == len(plugin.quantmux_kernels()) > 0


@pytest.mark.parametrize("spec", plugin.quantmux_kernels(), ids=lambda spec: spec.id)
def test_a_kernel_has_what_its_role_asks_and_compiles_ahead(spec):
    module, _, name = spec.load.partition(":")
    kernel = getattr(importlib.import_module(module), name)
    assert missing_methods(spec.op, kernel) == ()
    assert isinstance(kernel, CompilesAhead)
    assert callable(kernel.compiled_variants)


@pytest.mark.parametrize("spec", plugin.quantmux_kernels(), ids=lambda spec: spec.id)
def test_a_kernel_says_how_many_launches_it_makes_and_that_graphs_can_hold_it(spec):
    assert spec.capability.launches is not None
    assert {"cuda_graph", "deterministic"} <= spec.capability.tags
    assert spec.summary


def test_every_file_of_the_package_is_a_source_of_a_kernel_or_of_the_frame():
    frame = {"__init__.py", "plugin.py"}
    sources = {name for spec in plugin.quantmux_kernels() for name in spec.sources}
    files = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.py")}
    specs = {name for name in files if Path(name).name.startswith("specs")}
    packages = {name for name in files if name.endswith("/__init__.py")}
    assert sources <= files | {f.relative_to(FOLDER).as_posix() for f in FOLDER.rglob("*.json")}
    assert files - sources - frame - specs - packages == set()


def test_the_table_of_the_readme_is_the_plugin_s():
    text = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    told = {row[0].strip("| `"): (row[1], row[2], row[3].strip(" |")) for row in rows}
    assert told == {
        spec.id.partition("/")[2]: (
            spec.summary,
            " ".join(
                f"sm{arch}" if arch[0].isdigit() else arch
                for arch in map(str, spec.capability.arch)
                if arch != "cpu"
            ),
            str(spec.capability.launches),
        )
        for spec in plugin.quantmux_kernels()
    }


def test_listing_the_kernels_imports_neither_torch_nor_triton():
    code = (
        "import sys\nfrom quantmux_triton import plugin\nplugin.quantmux_kernels()\n"
        "sys.exit(' '.join({'torch', 'triton'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_missing_part_is_an_error(monkeypatch):
    monkeypatch.setattr(plugin, "SPECS", ("quantize.no_such_part",))
    with pytest.raises(ModuleNotFoundError):
        plugin.quantmux_kernels()


@pytest.mark.parametrize("sm", ["80", "89", "90", "100", "103", "120", "121"])
def test_works_on_gpus_from_sm80_on(registry, sm):
    status = probe(registry, gpu(sm))
    assert (status.state, status.reasons) == ("ok", ())
    assert status.details["triton"]


def test_says_what_is_wrong_with_older_gpus(registry):
    status = probe(registry, gpu("75"))
    assert status.state == "unavailable"
    assert status.reasons == ("Triton's kernels need sm80, some is sm75",)


def test_a_cpu_needs_the_interpreter(registry):
    status = probe(registry, HERE_CPU)
    assert status.state == "unavailable"
    assert "TRITON_INTERPRET=1" in status.hint


def test_in_the_interpreter_a_cpu_works_and_a_gpu_does_not(registry, monkeypatch):
    monkeypatch.setattr(plugin, "interpreting", lambda: True)
    status = probe(registry, HERE_CPU)
    assert (status.state, status.details["mode"]) == ("ok", "interpreter")
    status = probe(registry, gpu("90"))
    assert (status.state, status.hint) == ("unavailable", "unset TRITON_INTERPRET")
    # a name is asked for plans, and nothing of it runs
    assert probe(registry, PROFILES["h200"]).state == "ok"


def test_an_amd_gpu_is_one_to_compile_for_only(registry):
    profiles = registry.profiles()
    assert {str(profiles[name].arch) for name in ("mi300x", "mi355x")} == {"gfx942", "gfx950"}
    status = probe(registry, gpu("gfx942"))
    assert status.state == "unavailable"
    assert "runs no AMD GPU yet" in status.reasons[0]


@pytest.mark.parametrize("version", ["3.3.1", None])
def test_says_which_triton_it_needs(registry, monkeypatch, version):
    monkeypatch.setattr(needs, "package_version", lambda _name: version)
    monkeypatch.setattr(needs, "module_exists", lambda _name: version is not None)
    status = probe(registry, gpu("90"))
    assert status.state == "unavailable"
    assert status.reasons == (f"triton >=3.4: {version or 'not installed'}",)
    assert "pip install" in status.hint


def test_without_the_interpreter_no_kernel_of_it_is_taken_on_a_cpu():
    context = Context(default_registry(), Quarantine())
    selection = context.select(QuantizeConfig(operand="fp8_group128", n=256), HERE_CPU)
    assert all(name.startswith("torch/") for name in selection.kernels)
    reasons = selection.rejected["triton/quantize_fp8_group"]
    assert any("Triton compiles for GPUs" in reason.actual for reason in reasons)


def test_on_an_h200_the_quantizer_is_taken_before_torch_s():
    context = Context(default_registry(), Quarantine())
    selection = context.select(QuantizeConfig(operand="fp8_group128", n=7168), PROFILES["h200"])
    assert selection.kernels == ("triton/quantize_fp8_group",)
