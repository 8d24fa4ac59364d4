import pytest

from quantmux.config import SCHEMES, Scheme, operand, scheme
from quantmux.errors import ConfigError

PRESETS = {
    "fp8_tensor": ("fp8_tensor", "fp8_tensor"),
    "fp8_channel_token": ("fp8_channel", "fp8_token"),
    "fp8_block128": ("fp8_block128", "fp8_group128"),
    "fp8_block128_pow2": ("fp8_block128_pow2", "fp8_group128_pow2"),
    "fp8_w8a16": ("fp8_channel", None),
    "nvfp4": ("nvfp4", "nvfp4_static"),
    "nvfp4_w4a16": ("nvfp4", None),
    "int8_channel_token": ("int8_channel", "int8_token"),
}


@pytest.mark.parametrize(("name", "parts"), PRESETS.items())
def test_presets_mean_what_the_design_says(name, parts):
    weight, activation = parts
    value = scheme(name)
    assert value == Scheme(weight=weight, activation=activation)
    assert value.activation == (operand(activation) if activation else None)
    assert value.weight.replace(dynamic=True).block == operand(weight).block
    assert value.name == name


@pytest.mark.parametrize("name", [*SCHEMES, "fp8_block128+exact"])
def test_every_preset_round_trips_through_json(name):
    value = scheme(name)
    assert Scheme.model_validate_json(value.model_dump_json()) == value
    assert value.name == name


def test_a_weight_is_spelled_one_way_whether_dynamic_or_not():
    assert Scheme(weight="fp8_tensor") == Scheme(weight="fp8_tensor_static")
    assert hash(Scheme(weight="nvfp4")) == hash(Scheme(weight="nvfp4_static"))


def test_exact_accumulation_is_another_scheme():
    assert scheme("fp8_block128+exact") != scheme("fp8_block128")
    assert scheme("fp8_block128+fast") == scheme("fp8_block128")


@pytest.mark.parametrize("name", ["fp8_block128+", "fp8_block128+exakt", "int8", ""])
def test_refuses_names_that_are_no_scheme(name):
    with pytest.raises(ConfigError, match="is not a preset"):
        scheme(name)


def test_refuses_int8_times_float():
    with pytest.raises(ConfigError, match="cannot be multiplied"):
        Scheme(weight="int8_channel", activation="fp8_token")


def test_says_which_schemes_need_calibration():
    needing = {name for name in SCHEMES if scheme(name).needs_static_activation_scale}
    assert needing == {"fp8_tensor_static", "nvfp4"}
