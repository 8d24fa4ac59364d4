"""Both sides of every bound, and architecture sets written a second time."""

import pytest

from quantmux.capability.arch import Arch, ArchSet
from quantmux.testing.derive import beside
from quantmux.testing.edges import arch_fits

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
