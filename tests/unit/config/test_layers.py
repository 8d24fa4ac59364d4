import json
import os
import pickle
import subprocess
import sys

import pytest

from quantmux.config import (
    InverseRopeQuantizeConfig,
    Layout,
    LinearConfig,
    QuantizeConfig,
    RelayoutConfig,
    SiluMulQuantizeConfig,
    layer_config_schema,
    parse_layer_config,
)
from quantmux.errors import ConfigError

CONFIGS = [
    LinearConfig(in_features=7168, out_features=2112, scheme="fp8_block128", bias=True),
    LinearConfig(in_features=1, out_features=1, scheme="fp8_w8a16", in_dtype="fp16"),
    LinearConfig(in_features=16, out_features=8, scheme="nvfp4+exact", contiguous_output=True),
    QuantizeConfig(operand="nvfp4", n=7152, padded_n=7168, layout="swizzled_8x4"),
    QuantizeConfig(operand="fp8_group128", n=100, padded_m_multiple=4),
    QuantizeConfig(operand={"element": "fp8_e5m2", "block": {"rows": 1, "cols": -1}}, n=3),
    SiluMulQuantizeConfig(operand="fp8_group128_pow2", n=640, layout="packed_pow2"),
    InverseRopeQuantizeConfig(
        heads=8, head_dim=512, rope_dim=64, groups=2, layout="col_major_aligned4"
    ),
    RelayoutConfig(
        operand="nvfp4",
        n=64,
        source=Layout(scales="row_major", padded_n=64),
        target=Layout(scales="swizzled_128x4", padded_n=64),
    ),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_json_gives_the_same_config_back(config):
    for again in (
        parse_layer_config(config.model_dump_json()),
        parse_layer_config(config.model_dump()),
        parse_layer_config(json.loads(config.model_dump_json())),
        pickle.loads(pickle.dumps(config)),  # noqa: S301 - our own bytes
    ):
        assert again == config
        assert hash(again) == hash(config)
        assert again.digest() == config.digest()
        assert type(again) is type(config)


def test_configs_are_different_keys():
    assert len(set(CONFIGS)) == len(CONFIGS) == len({c.digest() for c in CONFIGS})


def test_digest_and_hash_are_right_in_a_process_with_other_string_hashes():
    config = CONFIGS[3]
    hash(config)
    code = (
        "import pickle, sys; c = pickle.loads(bytes.fromhex(sys.argv[1]));"
        "from quantmux.config import QuantizeConfig as Q;"
        "d = Q(operand='nvfp4', n=7152, padded_n=7168, layout='swizzled_8x4');"
        "print(c in {d}, c.digest())"
    )
    for seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", code, pickle.dumps(config).hex()],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.split() == ["True", config.digest()]


def test_a_copy_with_changes_has_its_own_hash():
    config = CONFIGS[0]
    hash(config)
    changed = config.model_copy(update={"bias": False})
    assert hash(changed) == hash(config.replace(bias=False))
    assert changed != config


def test_configs_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        CONFIGS[0].bias = False


def test_the_schema_names_every_op():
    schema = layer_config_schema()
    assert schema["discriminator"]["propertyName"] == "op"
    assert set(schema["discriminator"]["mapping"]) == {
        "linear",
        "quantize",
        "silu_mul_quantize",
        "inverse_rope_quantize",
        "rmsnorm_quantize",
        "rope_quantize",
        "relayout",
    }
    json.dumps(schema)


def test_layout_may_be_a_name_beside_its_padding_or_a_layout():
    by_name = QuantizeConfig(operand="nvfp4", n=100, layout="swizzled_8x4", padded_n=128)
    by_value = QuantizeConfig(
        operand="nvfp4", n=100, layout=Layout(scales="swizzled_8x4", padded_n=128)
    )
    assert by_name == by_value
    assert by_name.padded_n == 128


def test_the_default_layout_is_the_plainest():
    config = QuantizeConfig(operand="nvfp4", n=100)
    assert config.layout == Layout(scales="row_major", padded_n=112)


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ({"op": "lin"}, ['op "lin" is not known', 'did you mean "linear"']),
        ({}, ["needs an op"]),
        ("{", ["not valid JSON"]),
        ("[]", ["is an object"]),
        (None, ["is an object"]),
        ({"op": "linear"}, ["LinearConfig", "in_features: required", "scheme: required"]),
        (
            {"op": "linear", "in_features": 0, "out_features": -1, "scheme": "nvfp4"},
            ["in_features", "out_features", "greater than 0, found -1"],
        ),
        (
            {"op": "linear", "in_features": 1, "out_features": 1, "scheme": "fp8_blok128"},
            ['did you mean "fp8_block128"'],
        ),
        (
            {"op": "linear", "in_feature": 1, "out_features": 1, "scheme": "nvfp4"},
            ["in_feature: no such field", 'did you mean "in_features"'],
        ),
        (
            {"op": "linear", "in_features": 1, "out_features": 1, "scheme": "nvfp4", "in_dtype": 8},
            ["in_dtype", "'bf16', 'fp16' or 'fp32'"],
        ),
        ({"op": "quantize", "operand": "nvfp4"}, ["QuantizeConfig", "n: required"]),
        ({"op": "quantize", "n": 5}, ["operand: required"]),
        ({"op": "quantize", "operand": "nvfp4", "n": 16, "layout": 3}, ["a name or a Layout"]),
        ({"op": "quantize", "operand": "fp8_block128", "n": 16}, ["is a weight operand"]),
        (
            {"op": "quantize", "operand": "fp8_token", "n": 16, "layout": "swizzled_8x4"},
            ["has no layout", "row_major"],
        ),
        (
            {"op": "quantize", "operand": "nvfp4", "n": 128, "padded_n": 100},
            ["padded_n = 100 is below n = 128"],
        ),
    ],
)
def test_refuses_what_is_no_layer_and_says_why(data, parts):
    with pytest.raises(ConfigError) as caught:
        parse_layer_config(data)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": 3}, "cannot be split into 3 groups"),
        ({"n": 7}, "n follows from"),
        ({"rope_dim": 63}, "rope_dim must be even"),
        ({"rope_dim": 1024}, "rope_dim must be even"),
        ({"operand": "fp8_group128", "layout": "col_major_aligned4"}, "power-of-two scales"),
        ({"operand": "fp8_token_pow2", "layout": "row_major"}, "makes fp8_e4m3 groups"),
        ({"layout": "row_major"}, "writes col_major_aligned4 or packed_pow2"),
        ({"padded_n": 4096}, "does not pad"),
        ({"head_dim": 192}, "head_dim must be a multiple of the group"),
        ({"heads": 0}, "heads"),
    ],
)
def test_inverse_rope_refuses_what_it_cannot_mean(changes, message):
    fields = {"heads": 8, "head_dim": 512, "rope_dim": 64, "groups": 2, "layout": "packed_pow2"}
    with pytest.raises(ConfigError) as caught:
        InverseRopeQuantizeConfig(**{**fields, **changes})
    assert message in str(caught.value)


def test_inverse_rope_knows_its_row_width_operand_and_layout():
    config = InverseRopeQuantizeConfig(heads=8, head_dim=512, rope_dim=64, groups=2)
    assert config.n == 2048
    assert config.layout == Layout(scales="col_major_aligned4", padded_n=2048)
    assert config.operand.name == "fp8_group128_pow2"


def test_relayout_refuses_a_layout_that_the_operand_has_not():
    with pytest.raises(ConfigError, match="has no layout"):
        RelayoutConfig(
            operand="fp8_group128",
            n=128,
            source=Layout(scales="row_major", padded_n=128),
            target=Layout(scales="packed_pow2", padded_n=128),
        )
