"""Plugins installed as real packages: files and metadata on the path, entry points and all."""

import sys

import pytest

from quantmux.config import Policy, load_policy
from quantmux.errors import BuildError, ConfigError, PluginError
from quantmux.registry import load_registry

BROKEN = {
    "raises on import": ("raise RuntimeError('boom on import')\n", "", "plugin_import", "boom"),
    "exits on import": ("import sys\nsys.exit('no library')\n", "", "plugin_import", "no library"),
    "does not parse": ("def broken(:\n", "", "plugin_import", "SyntaxError"),
    "misses a module": ("import qm_absent_library\n", "", "plugin_import", "qm_absent_library"),
    "is empty": ("", "", "plugin_hooks", "quantmux_backend, quantmux_kernels"),
    "forgets the marker": (
        "def quantmux_backend(): ...\ndef quantmux_kernels(): ...\n",
        "",
        "plugin_hooks",
        "@quantmux.registry.hookimpl",
    ),
    "raises in a hook": (
        None,
        "@hookimpl\ndef quantmux_kernels():\n    raise KeyError('boom in hook')\n",
        "plugin_raised",
        "boom in hook",
    ),
    "exits in a hook": (
        None,
        "@hookimpl\ndef quantmux_backend():\n    raise SystemExit(3)\n",
        "plugin_raised",
        "SystemExit",
    ),
    "raises half way": (
        None,
        "@hookimpl\ndef quantmux_kernels():\n    yield kernel('one')\n    raise OSError('half')\n",
        "plugin_raised",
        "half",
    ),
    "never ends": (
        None,
        "@hookimpl\ndef quantmux_kernels():\n    while True:\n        yield kernel('one')\n",
        "plugin_data",
        "more than",
    ),
    "returns rubbish": (
        None,
        "@hookimpl\ndef quantmux_kernels():\n    return 3\n",
        "plugin_data",
        "returned int",
    ),
    "returns a string": (
        None,
        "@hookimpl\ndef quantmux_kernels():\n    return 'kernels'\n",
        "plugin_data",
        "returned str",
    ),
    "returns nothing": (
        None,
        "@hookimpl\ndef quantmux_kernels():\n    pass\n",
        "plugin_data",
        "returned nothing",
    ),
    "mixes rubbish in": (
        None,
        "@hookimpl\ndef quantmux_kernels():\n    return [kernel('one'), {'id': 'x'}]\n",
        "plugin_data",
        "returned dict",
    ),
    "names no backend": (
        None,
        "@hookimpl\ndef quantmux_backend():\n    return {'name': 'bad'}\n",
        "plugin_data",
        "returned dict from quantmux_backend",
    ),
    "has a version that is none": (
        None,
        "@hookimpl\ndef quantmux_backend():\n    return BackendInfo('bad', 3)\n",
        "plugin_data",
        "version is int",
    ),
    "calls itself otherwise": (
        None,
        "@hookimpl\ndef quantmux_backend():\n    return BackendInfo('torch', '1')\n",
        "plugin_data",
        'calls itself "torch"',
    ),
    "needs another API": (
        None,
        "@hookimpl\ndef quantmux_backend():\n    return BackendInfo('bad', '1', api='>=2')\n",
        "plugin_api",
        "this quantmux has API 1.2",
    ),
    "names no API range": (
        None,
        "@hookimpl\ndef quantmux_backend():\n    return BackendInfo('bad', '1', api='two')\n",
        "plugin_api",
        '"two"',
    ),
    "misspells a hook": (
        None,
        "@hookimpl\ndef quantmux_prob(device): ...\n",
        "plugin_hooks",
        "did you mean quantmux_probe",
    ),
    "asks for an argument that is none": (
        None,
        "@hookimpl\ndef quantmux_probe(gpu): ...\n",
        "plugin_hooks",
        "wrong signature",
    ),
    "takes another's ids": (
        None,
        "@hookimpl\ndef quantmux_kernels():\n    return [kernel('one', backend='good')]\n",
        "kernel_spec",
        "does not begin with the plugin's name",
    ),
    "registers an id twice": (
        None,
        "@hookimpl\ndef quantmux_kernels():\n    return [kernel('one'), kernel('one')]\n",
        "conflict",
        "bad/one twice",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_plugin_that_breaks_hurts_no_other(install, kind):
    text, more, code, words = BROKEN[kind]
    install("good")
    install("bad", text, more=more)
    registry = load_registry(Policy(fallback={"load": "silent"}), only=("good", "bad"))
    bad, good = registry.record("bad"), registry.record("good")
    assert bad.state == "failed"
    assert isinstance(bad.error, PluginError)
    assert bad.error.code == code
    assert (bad.error.plugin, bad.error.distribution) == ("bad", "quantmux-bad")
    assert words in str(bad.error)
    assert bad.kernels == 0
    assert good.state == "ok"
    assert [k.id for k in registry.kernels] == ["good/one", "good/two"]
    assert bad.to_dict()["status"] == "failed"
    assert bad.to_dict()["error"]["code"] == code


def test_an_installed_plugin_is_found_with_its_versions(install):
    install("acme")
    registry = load_registry(only=("acme",))
    (record,) = registry.plugins
    assert (record.name, record.state, record.distribution) == ("acme", "ok", "quantmux-acme")
    assert (record.version, record.api, record.kernels) == ("1.2.3", ">=1.0,<2", 2)
    assert record.summary == "for tests"
    assert record.notes == ()


def test_two_packages_that_claim_a_name_are_both_named(install):
    install("acme", distribution="quantmux-first")
    install("acme", distribution="quantmux-second")
    registry = load_registry(Policy(fallback={"load": "silent"}), only=("acme",))
    taken, refused = registry.plugins
    assert (taken.distribution, taken.state) == ("quantmux-first", "ok")
    assert (refused.distribution, refused.state) == ("quantmux-second", "failed")
    assert refused.error.code == "conflict"
    assert "quantmux-first 9.9" in str(refused.error)
    assert "quantmux-second 9.9" in str(refused.error)
    assert len(registry.kernels) == 2


def test_a_disabled_plugin_is_not_imported(install, tmp_path):
    module = install("acme", "raise RuntimeError('imported')\n")
    path = tmp_path / "mine.toml"
    path.write_text("schema = 1\n[plugins.acme]\nenabled = false\n")
    registry = load_registry(load_policy(path), only=("acme",))
    (record,) = (r for r in registry.plugins if r.name == "acme")
    assert record.state == "disabled"
    assert record.reasons == (f"enabled = false in {path} line 3",)
    assert module not in sys.modules


def test_only_what_was_asked_for_is_imported(install):
    module = install("acme", "raise RuntimeError('imported')\n")
    install("good")
    registry = load_registry(only=("good",))
    assert [r.name for r in registry.plugins] == ["good"]
    assert module not in sys.modules


def test_policy_error_raises_the_first_failure(install):
    install("bad", "raise RuntimeError('boom')\n")
    with pytest.raises(PluginError, match="cannot be imported") as caught:
        load_registry(Policy(fallback={"load": "error"}), only=("bad",))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_policy_warn_logs_once_and_silent_does_not(install, caplog):
    install("bad", "raise RuntimeError('boom')\n")
    load_registry(Policy(fallback={"load": "silent"}), only=("bad",))
    assert not caplog.records
    load_registry(only=("bad",))
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "boom" in caplog.text


def test_a_policy_that_names_nobody_is_an_error(install):
    install("acme")
    load_registry(Policy(order=["acme", "torch"]), only=("acme",))
    with pytest.raises(ConfigError, match='did you mean "acme"'):
        load_registry(Policy(order=["acmee"]), only=("acme",))
    with pytest.raises(ConfigError, match='did you mean "acme/one"'):
        load_registry(Policy(force="acme/ome"), only=("acme",))


def test_a_plugin_declared_but_absent_is_shown_as_unavailable():
    policy = Policy(plugins={"someday": {"enabled": True}})
    record = load_registry(policy, only=()).record("someday")
    assert record.state == "unavailable"
    assert "not installed" in record.reasons[0]


def test_unreadable_metadata_of_one_package_hides_no_other(install, tmp_path):
    install("good")
    info = tmp_path / "site-packages" / "wrecked-1.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_bytes(b"[quantmux.backends]\nx = \xff\xfe\n")
    registry = load_registry(only=("good",))
    assert registry.record("good").state == "ok"


def test_importing_torch_in_the_plugin_module_is_noted(install, tmp_path, monkeypatch):
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "torch.py").write_text("")
    monkeypatch.syspath_prepend(str(fake))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    install("acme", more="import torch\n")
    (record,) = load_registry(only=("acme",)).plugins
    assert "imports torch" in record.notes[0]
    monkeypatch.delitem(sys.modules, "torch")


def test_a_kernel_is_imported_when_it_is_loaded_and_not_before(install, tmp_path):
    install("acme", more="@hookimpl\ndef quantmux_kernels():\n    return [kernel('one')]\n")
    registry = load_registry(only=("acme",))
    with pytest.raises(PluginError, match="does not keep the protocol") as caught:
        registry.load_kernel("acme/one")
    assert caught.value.distribution == "quantmux-acme"
    assert registry.folder("acme") == tmp_path / "site-packages"


def test_a_library_that_is_missing_at_load_is_a_build_error(install):
    more = """
    from dataclasses import replace
    @hookimpl
    def quantmux_kernels():
        return [replace(kernel("one"), load="qm_absent_library.kernels:KERNEL")]
    """
    install("acme", more=more)
    with pytest.raises(BuildError, match="qm_absent_library") as caught:
        load_registry(only=("acme",)).load_kernel("acme/one")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
