import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from quantmux.capability.profiles import PROFILES
from quantmux.config import Policy
from quantmux.errors import BuildError, ConfigError, PluginError
from quantmux.registry import BackendStatus, Registry, hookimpl

from .conftest import make_kernel

CPU, H200 = PROFILES["cpu"], PROFILES["h200"]


class Quantizer:
    def bind(self, config, device): ...

    def warmup(self, config, ms): ...


GOOD = Quantizer()
NEITHER = object()


def test_kernels_are_listed_by_id_and_op(plugin):
    registry = Registry.of(
        {
            "zeta": plugin("zeta"),
            "acme": plugin(kernels=[make_kernel("two"), make_kernel("one")]),
        }
    )
    assert [k.id for k in registry.kernels] == ["acme/one", "acme/two", "zeta/one"]
    assert registry.kernels_for("quantize") == registry.kernels
    assert registry.kernels_for("linear") == ()
    assert registry.get("acme/two").backend == "acme"


def test_an_unknown_kernel_suggests_the_nearest(plugin):
    with pytest.raises(ConfigError, match='did you mean "acme/one"'):
        Registry.of({"acme": plugin()}).get("acme/oen")
    with pytest.raises(ConfigError, match="no plugin"):
        Registry.of({}).get("acme/one")


def test_two_plugin_objects_cannot_share_a_name(plugin):
    registry = Registry.of(
        [("acme", plugin()), ("acme", plugin())], Policy(fallback={"load": "silent"})
    )
    assert [r.state for r in registry.plugins] == ["ok", "failed"]
    assert registry.plugins[1].error.code == "conflict"
    assert "registered by the program" in str(registry.plugins[1].error)


def test_probes_are_asked_once_per_device(plugin):
    asked = []

    def quantmux_probe(self, device):  # noqa: ARG001 - the signature of a method
        asked.append(device.name)
        return BackendStatus("unavailable", ("no toolkit",), "install it", {"found": "nothing"})

    registry = Registry.of({"acme": plugin(quantmux_probe=quantmux_probe), "zeta": plugin("zeta")})
    for _ in range(2):
        assert registry.probe(CPU)["acme"].state == "unavailable"
        assert registry.probe(CPU)["zeta"] == BackendStatus()
    registry.probe(H200)
    assert asked == ["cpu", "h200"]
    acme, zeta = registry.plugins_on(CPU)
    assert (acme.state, acme.reasons, acme.hint) == ("unavailable", ("no toolkit",), "install it")
    assert acme.details == {"found": "nothing"}
    assert zeta.state == "ok"
    assert registry.record("acme").state == "ok"


def raising(self, device):  # noqa: ARG001 - the hook's signature
    raise RuntimeError("boom")


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        (raising, "raised RuntimeError: boom"),
        (lambda self, device: 3, "returned int"),  # noqa: ARG005
        (lambda self, device: BackendStatus("fine"), "state 'fine'"),  # noqa: ARG005
        (lambda self, device: BackendStatus("ok", "text"), "reasons"),  # noqa: ARG005
        (lambda self, device: BackendStatus("ok", (), None, ["x"]), "details"),  # noqa: ARG005
    ],
)
def test_a_probe_that_breaks_is_failed_and_hurts_no_other(plugin, probe, words):
    registry = Registry.of({"acme": plugin(quantmux_probe=probe), "zeta": plugin("zeta")})
    statuses = registry.probe(CPU)
    assert statuses["acme"].state == "failed"
    assert words in statuses["acme"].reasons[0]
    assert statuses["zeta"].state == "ok"
    assert registry.plugins_on(CPU)[0].state == "failed"


def test_events_reach_every_plugin_and_one_that_raises_is_logged_once(plugin, caplog):
    heard = []

    def deaf(self, event):  # noqa: ARG001
        raise SystemExit(1)

    registry = Registry.of(
        {
            "acme": plugin(quantmux_event=deaf),
            "zeta": plugin("zeta", quantmux_event=lambda self, event: heard.append(event)),  # noqa: ARG005
        }
    )
    with caplog.at_level(logging.WARNING, logger="quantmux"):
        registry.emit("first")
        registry.emit("second")
    assert heard == ["first", "second"]
    assert len(caplog.records) == 1
    assert "acme raised in quantmux_event" in caplog.text


def test_profiles_of_plugins_join_those_of_core(plugin, caplog):
    mine = H200.replace(name="acme_1")
    fake = H200.replace(title="not yours")
    registry = Registry.of(
        {
            "acme": plugin(quantmux_profiles=lambda self: [mine, fake]),  # noqa: ARG005
            "zeta": plugin("zeta", quantmux_profiles=lambda self: [mine, "h900"]),  # noqa: ARG005
        }
    )
    found = registry.profiles()
    assert found["acme_1"] is mine
    assert found["h200"] is H200
    assert set(found) == {*PROFILES, "acme_1"}
    assert "str is not a DeviceProfile" in caplog.text


def loading(plugin, load, **fields):
    kernel = make_kernel(load=load, **fields)
    return Registry.of({"acme": plugin(kernels=[kernel])})


@pytest.fixture
def module(monkeypatch):
    found = SimpleNamespace(GOOD=GOOD, NEITHER=NEITHER, CLASS=Quantizer)
    monkeypatch.setitem(sys.modules, "qm_kernels", found)
    return found


@pytest.mark.usefixtures("module")
def test_a_kernel_is_loaded_once(plugin):
    registry = loading(plugin, "qm_kernels:GOOD")
    assert registry.load_kernel("acme/one") is GOOD
    del sys.modules["qm_kernels"]
    assert registry.load_kernel("acme/one") is GOOD


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("load", "words"),
    [
        ("qm_kernels:ABSENT", "qm_kernels has no ABSENT"),
        ("qm_kernels:NEITHER", "lacks bind, warmup"),
        ("qm_kernels:CLASS", "name an instance"),
    ],
)
def test_an_object_without_the_protocol_is_a_plugin_error(plugin, load, words):
    registry = loading(plugin, load)
    with pytest.raises(PluginError, match="protocol of quantize") as caught:
        registry.load_kernel("acme/one")
    assert words in str(caught.value)
    assert caught.value.code == "kernel_protocol"


def test_a_module_that_cannot_be_imported_is_a_build_error_each_time(plugin):
    registry = loading(plugin, "qm_absent_kernels:GOOD")
    for _ in range(2):
        with pytest.raises(BuildError, match="qm_absent_kernels") as caught:
            registry.load_kernel("acme/one")
        assert caught.value.code == "kernel_import"


def test_the_fingerprint_changes_with_data_and_version_and_with_nothing_else(plugin):
    def of(**members):
        return Registry.of({"acme": plugin(**members)}).fingerprint

    changed = make_kernel(capability=make_kernel().capability.replace(align_k=16))
    assert of() == of(kernels=[make_kernel()])
    assert len({of(), of(kernels=[]), of(kernels=[changed]), of(kernels=[make_kernel("b")])}) == 4


def test_the_fingerprint_is_the_same_in_every_process():
    code = (
        "import importlib; from quantmux.registry import Registry;"
        "names = ('torch', 'triton', 'cutlass', 'flashinfer');"
        "plugins = {n: importlib.import_module(f'quantmux_{n}.plugin') for n in names};"
        "print(Registry.of(plugins).fingerprint)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


def test_an_optional_hook_of_a_later_version_is_no_mistake(plugin):
    made = plugin()
    type(made).quantmux_tomorrow = hookimpl(lambda self: 1, optionalhook=True)  # noqa: ARG005
    assert Registry.of({"acme": made}).record("acme").state == "ok"
