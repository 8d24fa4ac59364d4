import pytest

from quantmux.config import OPERANDS, Block, Operand, operand
from quantmux.config.operands import OPERAND_ALIASES
from quantmux.errors import ConfigError

PRESETS = [
    "fp8_tensor",
    "fp8_token",
    "fp8_channel",
    "fp8_group128",
    "fp8_group64",
    "fp8_block128",
    "int8_token",
    "int8_channel",
    "nvfp4",
]


@pytest.mark.parametrize("name", [*PRESETS, "fp8_group128_pow2", "fp8_block128_pow2"])
def test_every_preset_round_trips_through_json(name):
    value = operand(name)
    assert Operand.model_validate_json(value.model_dump_json()) == value
    assert operand(OPERAND_ALIASES.get(name, name)).name == OPERAND_ALIASES.get(name, name)


def test_names_are_unique():
    assert len(set(OPERANDS.values())) == len(OPERANDS)
    for name, value in OPERANDS.items():
        assert value.name == name


def test_pow2_changes_the_rounding_and_nothing_else():
    for name in ("fp8_tensor", "fp8_token", "fp8_group128", "fp8_group64", "fp8_block128"):
        assert operand(f"{name}_pow2") == operand(name).replace(scale_rounding="pow2")


@pytest.mark.parametrize(
    ("block", "kind", "grid"),
    [
        ((-1, -1), "tensor", (1, 1)),
        ((1, -1), "row", (5, 1)),
        ((1, 128), "group", (5, 3)),
        ((128, 128), "block", (1, 3)),
        ((2, 64), "block", (3, 5)),
    ],
)
def test_blocks_count_partial_ones(block, kind, grid):
    value = Block(rows=block[0], cols=block[1])
    assert value.kind == kind
    assert value.grid(5, 257) == grid


@pytest.mark.parametrize("extent", [0, -2])
def test_refuses_an_extent_that_is_none(extent):
    with pytest.raises(ConfigError, match="block extent"):
        Block(rows=extent, cols=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"element": "bf16"}, "is not quantized"),
        ({"element": "fp4_e2m1"}, "blocks of 1x16"),
        ({"scale_type": "e4m3"}, "e4m3 scales exist for fp4_e2m1 only"),
        ({"global_scale": "static"}, "belongs to fp4_e2m1"),
        ({"element": "int8", "scale_rounding": "pow2"}, "pow2 scales are defined for fp8_e4m3"),
        ({"eps": 0.0}, "eps"),
        ({"eps": float("inf")}, "eps"),
        ({"eps": float("nan")}, "eps"),
        ({"scale_ub": -1.0}, "scale_ub"),
        ({"scale_ub": float("inf")}, "scale_ub"),
        ({"scale_up": 1.0}, 'did you mean "scale_ub"'),
    ],
)
def test_refuses_operands_that_mean_nothing(changes, message):
    with pytest.raises(ConfigError) as caught:
        operand("fp8_group128").replace(**changes)
    assert message in str(caught.value)


@pytest.mark.parametrize("changes", [{"scale_ub": 1.0}, {"eps": 1e-6}])
@pytest.mark.parametrize("name", ["nvfp4", "nvfp4_static"])
def test_nvfp4_refuses_bounds_that_its_definition_has_not(name, changes):
    with pytest.raises(ConfigError, match="neither eps nor scale_ub"):
        operand(name).replace(**changes)


def test_an_eps_whose_scale_is_subnormal_is_refused_by_element():
    tensor = Block(rows=-1, cols=-1)
    with pytest.raises(ConfigError, match="subnormal"):
        Operand(element="fp8_e5m2", block=tensor, eps=1e-35)
    with pytest.raises(ConfigError, match="subnormal"):
        Operand(element="fp8_e5m2", block=tensor, eps=57344 * 2.0**-127)
    least = Operand(element="fp8_e5m2", block=tensor, eps=57344 * 2.0**-126)
    assert least.eps / least.max_value == 2.0**-126
    assert operand("fp8_tensor").replace(eps=1e-35).eps == 1e-35
    assert operand("int8_tensor").replace(eps=1e-35).eps == 1e-35
    assert operand("fp8_tensor").replace(eps=1e300).eps == 1e300  # no scale is finite, as asked


def test_nvfp4_needs_a_global_scale():
    with pytest.raises(ConfigError, match="needs one"):
        operand("nvfp4").replace(global_scale="none")


def test_an_unknown_preset_suggests_the_nearest():
    with pytest.raises(ConfigError, match='did you mean "fp8_group128"'):
        operand("fp8_group_128")


def test_a_description_says_what_differs_from_a_preset():
    value = operand("fp8_group128").replace(eps=1e-4, scale_ub=12.0, dynamic=False)
    assert value.name == "fp8_e4m3[1x128](eps=0.0001,scale_ub=12)_static"
