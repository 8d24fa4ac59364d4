import pytest

from quantmux.errors import PluginError
from quantmux.registry import (
    Registry,
    default_registry,
    register_plugin,
    set_default_registry,
    unregister_plugin,
)


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    monkeypatch.delenv("QUANTMUX_PLUGINS", raising=False)
    set_default_registry(None)
    yield
    for name in ("acme", "broken"):
        unregister_plugin(name)
    set_default_registry(None)


def test_there_is_one_registry_until_another_is_set():
    first = default_registry()
    assert default_registry() is first
    other = Registry.of({})
    set_default_registry(other)
    assert default_registry() is other


def test_a_program_may_add_and_take_back_a_plugin(plugin):
    record = register_plugin(plugin(), "acme")
    assert (record.name, record.state, record.distribution) == ("acme", "ok", None)
    assert default_registry().get("acme/one")
    unregister_plugin("acme")
    assert default_registry().record("acme") is None


def test_a_broken_plugin_is_refused_and_not_kept(plugin):
    with pytest.raises(PluginError, match="returned nothing"):
        register_plugin(plugin("broken", quantmux_kernels=lambda self: None), "broken")  # noqa: ARG005
    assert default_registry().record("broken") is None


def test_a_name_is_registered_once(plugin):
    register_plugin(plugin(), "acme")
    with pytest.raises(PluginError, match="registered already") as caught:
        register_plugin(plugin(), "acme")
    assert caught.value.code == "conflict"


def test_an_installed_plugin_keeps_its_name(plugin, install):
    install("acme")
    with pytest.raises(PluginError, match="claimed by two packages"):
        register_plugin(plugin(), "acme")
    assert default_registry().record("acme").distribution == "quantmux-acme"
