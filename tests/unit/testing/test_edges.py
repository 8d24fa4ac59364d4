"""Both sides of every bound, and architecture sets written a second time."""

from dataclasses import replace

import pytest

from quantmux.capability.arch import Arch, ArchSet
from quantmux.capability.profiles import CPU
from quantmux.config import LinearConfig
from quantmux.registry import load_registry
from quantmux.testing.derive import beside
from quantmux.testing.edges import arch_fits, edges
from quantmux.testing.stage import Stage

SETS = ("90a", "90", "100f", "103f", "120f", "80+", "89+", "any", "cpu", "gfx942")
DEVICES = ("sm80", "sm89", "sm90", "sm100", "sm103", "sm120", "sm121", "cpu", "gfx942", "gfx950")


@pytest.mark.parametrize("declared", SETS)
@pytest.mark.parametrize("device", DEVICES)
def test_two_writings_of_architecture_sets_agree(declared, device):
    assert arch_fits(declared, device) == (Arch.parse(device) in ArchSet(spec=declared))


def test_a_family_is_no_range():
    assert not arch_fits("100f", "sm120")
    assert not arch_fits("90a", "sm100")
    assert arch_fits("100f", "sm103")


def test_extents_beside_an_alignment_are_on_it():
    assert beside(64, 16, 16) == (64, 80, 48)
    assert beside(64, 1, 16) == (64, 65, 63, 80, 72)
    assert beside(1, 1, 1) == (1, 2)


def test_padding_beside_an_alignment_is_asked_on_the_alignment():
    registry = load_registry(only=("torch",))
    right = registry.get("torch/linear_reference")
    spec = replace(right, capability=right.capability.replace(align_n=8, pad_n_to=16))
    asked = [e for e in edges(spec, Stage(registry, CPU)) if e.label.startswith("pad_n_to")]
    widths = [e.case.config.n for e in asked if isinstance(e.case.config, LinearConfig)]
    assert sorted(widths) == [48, 56, 64, 72, 80]
    assert not any(e.due for e in asked)
