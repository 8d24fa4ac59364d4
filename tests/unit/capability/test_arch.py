import pytest

from quantmux.capability.arch import Arch, ArchSet, arch_sets
from quantmux.errors import ConfigError

MEMBERS = {
    "90a": {"9.0"},
    "90": {"9.0"},
    "100a": {"10.0"},
    "103a": {"10.3"},
    "100f": {"10.0", "10.3"},
    "103f": {"10.3"},
    "120f": {"12.0", "12.1"},
    "80+": {"8.0", "8.9", "9.0", "10.0", "10.3", "12.0", "12.1"},
    "89+": {"8.9", "9.0", "10.0", "10.3", "12.0", "12.1"},
    "gfx942": {"gfx942"},
    "cpu": {"cpu"},
    "any": {"7.5", "8.0", "8.9", "9.0", "10.0", "10.3", "12.0", "12.1", "gfx942", "cpu"},
}
ALL = ("7.5", "8.0", "8.9", "9.0", "10.0", "10.3", "12.0", "12.1", "gfx942", "cpu")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("spec", MEMBERS)
def test_sets_hold_exactly_their_members(spec, name):
    assert (Arch.parse(name) in ArchSet(spec=spec)) is (name in MEMBERS[spec])


@pytest.mark.parametrize(
    ("text", "sm"), [("90", 90), ("9.0", 90), ("sm_90", 90), ("SM103", 103), ("12.1", 121)]
)
def test_parses_every_spelling_of_a_compute_capability(text, sm):
    assert Arch.parse(text) == Arch(vendor="nvidia", name=str(sm))
    assert Arch.parse(text).sm == sm


@pytest.mark.parametrize("text", ["", "90a", "hopper", "9", "1000", "gfx", "-9.0", "9.0.1"])
def test_refuses_what_is_no_architecture(text):
    with pytest.raises(ConfigError) as caught:
        Arch.parse(text)
    assert caught.value.code == "device"


@pytest.mark.parametrize("name", ["x", "090", "9", ""])
def test_refuses_an_nvidia_architecture_without_a_number(name):
    with pytest.raises(ConfigError):
        Arch(vendor="nvidia", name=name)


@pytest.mark.parametrize("spec", ["", ">=90", "90b", "sm_90", "90a+", "host"])
def test_refuses_what_is_no_set(spec):
    with pytest.raises(ConfigError, match="architecture set"):
        ArchSet(spec=spec)


def test_builds_several_sets_at_once():
    assert arch_sets("90a", "100f") == (ArchSet(spec="90a"), ArchSet(spec="100f"))


def test_prints_as_people_write_it():
    assert [str(Arch.parse(t)) for t in ("9.0", "cpu", "gfx942")] == ["sm90", "cpu", "gfx942"]
