"""Libraries for a named device: assumed, unless this machine is asked what it has."""

import pytest

from quantmux.capability.profiles import PROFILES
from quantmux.dispatch.gather import gather
from quantmux.registry import Registry
from quantmux.registry.library_unit import LibraryUnit

H200 = PROFILES["h200"]


@pytest.fixture
def gathered(plugin):
    def run(*states, target="90a", installed_only=True, device=H200):
        units = [
            LibraryUnit(
                f"lib{i}", target, ("acme/one",), lambda _: None, state, "no headers", "get them"
            )
            for i, state in enumerate(states)
        ]
        registry = Registry.of({"acme": plugin(quantmux_libraries=lambda _self: units)})
        return gather(registry, device, installed_only=installed_only)

    return run


@pytest.mark.parametrize("state", ["impossible", "failed"])
def test_a_kernel_whose_library_cannot_be_had_is_not_built(gathered, state):
    (found,) = gathered(state).blocked["acme/one"]
    assert (found.code, found.required) == ("not_built", "lib0 for 90a")
    assert (found.actual, found.hint) == ("no headers", "get them")


def test_one_that_can_be_compiled_is_an_assumption(gathered):
    found = gathered("built", "missing", "missing")
    assert "acme/one" not in found.blocked
    (text,) = found.assumptions["acme/one"]
    assert text == "lib1 is compiled for 90a (quantmux build acme), and 1 more"


def test_a_kernel_one_of_whose_libraries_is_there_is_not_rejected(gathered):
    assert "acme/one" not in gathered("impossible", "built").blocked


def test_what_is_there_needs_no_word(gathered):
    found = gathered("built", "prebuilt")
    assert (dict(found.blocked), dict(found.assumptions)) == ({}, {})


def test_libraries_of_other_targets_say_nothing(gathered):
    assert "acme/one" not in gathered("impossible", target="100f").blocked


def test_without_the_question_they_are_assumed(gathered):
    found = gathered("impossible", installed_only=False)
    assert (dict(found.blocked), dict(found.assumptions)) == ({}, {})


def test_a_plugin_that_cannot_say_has_said_nothing(plugin):
    def broken(_self):
        raise RuntimeError("no idea")

    registry = Registry.of({"acme": plugin(quantmux_libraries=broken)})
    assert dict(gather(registry, H200, installed_only=True).blocked) == {}
