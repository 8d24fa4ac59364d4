"""What each family of checkpoints means, decided from headers and config, and what is refused."""

import subprocess
import sys

import pytest

from quantmux.checkpoint import open_checkpoint, plan_layers
from quantmux.config import SCHEMES
from quantmux.errors import CheckpointError

DSV3 = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "weight_block_size": [128, 128],
}
AUTO = {"quant_method": "fp8", "activation_scheme": "dynamic", "ignored_layers": ["lm_head"]}
MOPT = {"quant_method": "modelopt", "ignore": ["lm_head", "model.layers.0*"]}


def ct(weights, inputs=None, fmt="float-quantized", **more):
    base = {"symmetric": True, "dynamic": False}
    group = {
        "targets": ["Linear"],
        "weights": {**base, **weights},
        "input_activations": None if inputs is None else {**base, **inputs},
    }
    return {
        "quant_method": "compressed-tensors",
        "format": fmt,
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
        **more,
    }


F8 = {"num_bits": 8, "type": "float"}
I8 = {"num_bits": 8, "type": "int"}
F4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
CT_CHANNEL = ct({**F8, "strategy": "channel"}, {**F8, "strategy": "token", "dynamic": True})
CT_BLOCK = ct(
    {**F8, "strategy": "block", "block_structure": [128, 128]},
    {**F8, "strategy": "group", "group_size": 128, "dynamic": True},
)
CT_NVFP4 = ct(F4, {**F4, "dynamic": "local"}, "nvfp4-pack-quantized")
CT_INT8 = ct(
    {**I8, "strategy": "channel"}, {**I8, "strategy": "token", "dynamic": True}, "int-quantized"
)


def layer(name="l", **parts):
    return {f"{name}.{leaf}": spec for leaf, spec in parts.items()}


def nvfp4(n, k, **more):
    return layer(
        weight_packed=("U8", (n, k // 2)),
        weight_scale=("F8_E4M3", (n, k // 16)),
        weight_global_scale=("F32", (1,)),
        **more,
    )


def the_entry(path):
    (entry,) = open_checkpoint(path).layers()
    return entry


def refuses(path, code, *words):
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path).layers()
    assert caught.value.code == code, str(caught.value)
    for word in words:
        assert word in str(caught.value)


W = ("F8_E4M3", (576, 144))
READS = {
    "deepseek": (DSV3, layer(weight=W, weight_scale_inv=("F32", (5, 2))), "fp8_block128", "as_is"),
    "deepseek bf16 scales": (
        DSV3,
        layer(weight=W, weight_scale_inv=("BF16", (5, 2))),
        "fp8_block128",
        "cast_f32",
    ),
    "ue8m0 in f32": (
        {**DSV3, "scale_fmt": "ue8m0"},
        layer(weight=W, weight_scale_inv=("F32", (5, 2))),
        "fp8_block128_pow2",
        "as_is",
    ),
    "ue8m0 in e8m0": (
        DSV3,
        layer(weight=W, scale=("F8_E8M0", (5, 2))),
        "fp8_block128_pow2",
        "e8m0",
    ),
    "ue8m0 in u8": (
        {**DSV3, "scale_fmt": "ue8m0"},
        layer(weight=W, weight_scale_inv=("U8", (5, 2))),
        "fp8_block128_pow2",
        "e8m0",
    ),
    "partial block of 192 rows": (
        DSV3,
        layer(weight=("F8_E4M3", (192, 128)), weight_scale_inv=("F32", (2, 1))),
        "fp8_block128",
        "as_is",
    ),
    "autofp8 dynamic ()": (AUTO, layer(weight=W, weight_scale=("F32", ())), "fp8_tensor", "as_is"),
    "autofp8 dynamic [1]": (
        AUTO,
        layer(weight=W, weight_scale=("F32", (1,))),
        "fp8_tensor",
        "as_is",
    ),
    "autofp8 static": (
        {**AUTO, "activation_scheme": "static"},
        layer(weight=W, weight_scale=("F32", ()), input_scale=("F32", ())),
        "fp8_tensor_static",
        "as_is",
    ),
    "hf static": (
        {
            "quant_method": "fp8",
            "activation_scheme": "static",
            "weight_block_size": None,
            "modules_to_not_convert": ["lm_head"],
        },
        layer(weight=W, weight_scale_inv=("BF16", ()), activation_scale=("BF16", ())),
        "fp8_tensor_static",
        "cast_f32",
    ),
    "mistral": (
        {**AUTO, "activation_scheme": "static"},
        layer(weight=W, qscale_weight=("F32", ()), qscale_act=("F32", ())),
        "fp8_tensor_static",
        "as_is",
    ),
    "ct channel bf16": (
        CT_CHANNEL,
        layer(weight=W, weight_scale=("BF16", (576, 1))),
        "fp8_channel_token",
        "cast_f32",
    ),
    "ct channel 1-D": (
        CT_CHANNEL,
        layer(weight=W, weight_scale=("F32", (576,))),
        "fp8_channel_token",
        "squeeze",
    ),
    "ct tensor static": (
        ct({**F8, "strategy": "tensor"}, {**F8, "strategy": "tensor"}),
        layer(weight=W, weight_scale=("F32", (1,)), input_scale=("F32", (1,))),
        "fp8_tensor_static",
        "as_is",
    ),
    "ct tensor token": (
        ct({**F8, "strategy": "tensor"}, {**F8, "strategy": "token", "dynamic": True}),
        layer(weight=W, weight_scale=("BF16", (1,))),
        "fp8_tensor_token",
        "cast_f32",
    ),
    "ct block": (
        CT_BLOCK,
        layer(weight=W, weight_scale=("BF16", (5, 2))),
        "fp8_block128",
        "cast_f32",
    ),
    "ct block, old spelling": (
        ct(
            {**F8, "block_structure": "128x128"},
            {**F8, "strategy": "group", "group_size": 128, "dynamic": True},
        ),
        layer(weight=W, weight_scale=("F32", (5, 2))),
        "fp8_block128",
        "as_is",
    ),
    "ct weight only": (
        ct({**F8, "strategy": "channel"}),
        layer(weight=W, weight_scale=("F32", (576, 1))),
        "fp8_w8a16",
        "as_is",
    ),
    "ct int8": (
        CT_INT8,
        layer(weight=("I8", (576, 144)), weight_scale=("BF16", (576, 1))),
        "int8_channel_token",
        "cast_f32",
    ),
    "ct nvfp4": (CT_NVFP4, nvfp4(48, 144, input_global_scale=("F32", (1,))), "nvfp4", "as_is"),
    "ct nvfp4, dynamic false": (
        ct(F4, F4, "nvfp4-pack-quantized"),
        nvfp4(48, 144, input_global_scale=("F32", (1,))),
        "nvfp4",
        "as_is",
    ),
    "ct nvfp4a16": (ct(F4, None, "nvfp4-pack-quantized"), nvfp4(48, 144), "nvfp4_w4a16", "as_is"),
    "ct mixed-precision": (
        {**CT_INT8, "format": "mixed-precision"},
        layer(weight=("I8", (576, 144)), weight_scale=("F32", (576, 1))),
        "int8_channel_token",
        "as_is",
    ),
    "ct preset by name": (
        {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "ignore": [],
            "config_groups": {"FP8_DYNAMIC": ["Linear"]},
        },
        layer(weight=W, weight_scale=("BF16", (576, 1))),
        "fp8_channel_token",
        "cast_f32",
    ),
    "modelopt fp8": (
        {**MOPT, "quant_algo": "FP8"},
        layer(weight=W, weight_scale=("F32", ()), input_scale=("F32", ())),
        "fp8_tensor_static",
        "as_is",
    ),
    "modelopt per channel": (
        {**MOPT, "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"},
        layer(weight=W, weight_scale=("F32", (576,))),
        "fp8_channel_token",
        "squeeze",
    ),
    "modelopt blocks, 4-D": (
        {**MOPT, "quant_algo": "fp8_pb_wo"},
        layer(weight=W, weight_scale=("F32", (5, 1, 2, 1))),
        "fp8_block128",
        "squeeze",
    ),
    "modelopt nvfp4": (
        {**MOPT, "quant_algo": "NVFP4"},
        layer(
            weight=("U8", (48, 72)),
            weight_scale=("F8_E4M3", (48, 9)),
            weight_scale_2=("F32", ()),
            input_scale=("F32", ()),
        ),
        "nvfp4",
        "as_is",
    ),
    "modelopt w4a16": (
        {**MOPT, "quant_algo": "W4A16_NVFP4"},
        layer(
            weight=("U8", (48, 72)), weight_scale=("F8_E4M3", (48, 9)), weight_scale_2=("F32", ())
        ),
        "nvfp4_w4a16",
        "as_is",
    ),
}


@pytest.mark.parametrize("case", READS)
def test_reads_the_scheme_and_the_scale_rule(make, case):
    quant, tensors, scheme, rule = READS[case]
    entry = the_entry(make({**tensors, "lm_head.weight": ("BF16", (9, 144))}, quant))
    assert entry.config.scheme == SCHEMES[scheme], entry.config.scheme.name
    assert entry.tensors["scales"].rule == rule
    weight = tensors.get("l.weight") or tensors["l.weight_packed"]
    packed = 2 if SCHEMES[scheme].weight.is_nvfp4 else 1
    assert (entry.config.n, entry.config.k) == (weight[1][0], weight[1][1] * packed)
    bound = {b.name for b in entry.tensors.values()}
    assert bound == set(tensors), "every tensor of the layer is bound"


def test_modelopt_reads_the_legacy_carrier(make):
    legacy = {
        "producer": {"name": "modelopt", "version": "0.23.0"},
        "quantization": {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head"]},
    }
    root = make(READS["modelopt nvfp4"][1], legacy=legacy)
    assert the_entry(root).config.scheme.name == "nvfp4"


def test_modelopt_mixed_precision_follows_quantized_layers(make):
    tensors = {
        **layer("a", weight=W, weight_scale=("F32", ()), input_scale=("F32", ())),
        **layer(
            "b",
            weight=("U8", (48, 72)),
            weight_scale=("F8_E4M3", (48, 9)),
            weight_scale_2=("F32", ()),
            input_scale=("F32", ()),
        ),
    }
    layers = {"a": {"quant_algo": "FP8"}, "b": {"quant_algo": "NVFP4", "group_size": 16}}
    quant = {
        "quant_method": "modelopt",
        "quant_algo": "MIXED_PRECISION",
        "quantized_layers": layers,
    }
    got = [(e.name, e.config.scheme.name) for e in open_checkpoint(make(tensors, quant)).layers()]
    assert got == [("a", "fp8_tensor_static"), ("b", "nvfp4")]
    del layers["b"]
    refuses(make(tensors, quant, name="less"), "no_group", "b:")


def test_global_scales_of_compressed_tensors_are_divisors(make):
    entry = the_entry(make(nvfp4(48, 144, input_global_scale=("F32", (1,))), CT_NVFP4))
    assert entry.tensors["global_scale"].rule == "reciprocal"
    assert entry.tensors["input_global_scale"].rule == "reciprocal"
    modelopt = the_entry(make(READS["modelopt nvfp4"][1], READS["modelopt nvfp4"][0], name="m"))
    assert modelopt.tensors["global_scale"].rule == "as_is"


def test_blocks_of_another_size_are_read_as_the_config_says(make):
    quant = {**DSV3, "weight_block_size": [64, 32]}
    tensors = layer(weight=("F8_E4M3", (100, 40)), weight_scale_inv=("F32", (2, 2)))
    scheme = the_entry(make(tensors, quant)).config.scheme
    assert (scheme.weight.block.rows, scheme.weight.block.cols) == (64, 32)
    assert (scheme.activation.block.rows, scheme.activation.block.cols) == (1, 32)


def test_equal_layers_share_one_config_and_come_in_natural_order(make):
    tensors = {}
    for i in (10, 2, 1):
        tensors |= layer(
            f"model.layers.{i}.mlp.up_proj", weight=W, weight_scale_inv=("F32", (5, 2))
        )
    tensors["model.layers.1.mlp.up_proj.bias"] = ("BF16", (576,))
    checkpoint = open_checkpoint(make(tensors, DSV3))
    entries = checkpoint.layers()
    assert [e.name.split(".")[2] for e in entries] == ["1", "2", "10"]
    assert entries[0].config.bias
    assert "bias" in entries[0].tensors
    assert entries[1].config is entries[2].config
    assert plan_layers(checkpoint) == [(e.name, e.config) for e in entries]


def test_what_is_not_quantized_is_listed_and_bound_to_nothing(make):
    tensors = {
        **READS["deepseek"][1],
        "model.embed_tokens.weight": ("BF16", (9, 4)),
        "model.layers.0.mlp.gate.weight": ("BF16", (8, 4)),
        "norm.weight": ("F32", (4,)),
        "l.k_scale": ("F32", (1,)),
    }
    other = open_checkpoint(make(tensors, DSV3)).other
    assert set(other) == set(tensors) - {"l.weight", "l.weight_scale_inv"}


def test_ct_targets_prefer_exact_names_to_patterns_to_classes(make):
    quant = ct({**F8, "strategy": "channel"}, {**F8, "strategy": "token", "dynamic": True})
    groups = quant["config_groups"]
    groups["blocks"] = {**CT_BLOCK["config_groups"]["group_0"], "targets": ["re:.*down"]}
    groups["one"] = {
        **ct({**F8, "strategy": "tensor"})["config_groups"]["group_0"],
        "targets": ["m.0.down"],
    }
    tensors = {
        **layer("m.0.down", weight=W, weight_scale=("F32", (1,))),
        **layer("m.1.down", weight=W, weight_scale=("F32", (5, 2))),
        **layer("m.1.up", weight=W, weight_scale=("F32", (576, 1))),
    }
    got = [e.config.scheme.weight.name for e in open_checkpoint(make(tensors, quant)).layers()]
    assert got == ["fp8_tensor_static", "fp8_block128_static", "fp8_token_static"]


def test_unquantized_checkpoints_have_no_layers(make):
    assert open_checkpoint(make({"a.weight": ("BF16", (4, 4))})).layers() == []


SCALE = ("F32", (5, 2))
REFUSALS = {
    "missing scale": (DSV3, layer(weight=W), "missing_scale", "l.weight_scale_inv"),
    "missing ct scale": (CT_CHANNEL, layer(weight=W), "missing_scale", "l.weight_scale"),
    "missing int8 scale": (CT_INT8, layer(weight=("I8", (4, 4))), "missing_scale", "l"),
    "missing block scales": (CT_NVFP4, layer(weight_packed=("U8", (4, 8))), "missing_scale", "l"),
    "missing global scale": (
        CT_NVFP4,
        layer(weight_packed=("U8", (4, 8)), weight_scale=("F8_E4M3", (4, 1))),
        "missing_scale",
        "weight_global_scale",
    ),
    "missing input global scale": (CT_NVFP4, nvfp4(48, 144), "missing_scale", "input_global_scale"),
    "missing static activation scale": (
        {**AUTO, "activation_scheme": "static"},
        layer(weight=W, weight_scale=("F32", ())),
        "missing_scale",
        "l.input_scale",
    ),
    "missing modelopt activation scale": (
        {**MOPT, "quant_algo": "FP8"},
        layer(weight=W, weight_scale=("F32", ())),
        "missing_scale",
        "l.input_scale",
    ),
    "missing weight": (DSV3, layer(weight_scale_inv=SCALE), "missing_weight", "l.weight"),
    "grid of floor blocks": (
        DSV3,
        layer(weight=W, weight_scale_inv=("F32", (4, 1))),
        "scale_shape",
        "[5, 2]",
    ),
    "block not in the config": (
        AUTO,
        layer(weight=W, weight_scale_inv=SCALE),
        "scale_shape",
        "never inferred",
    ),
    "tensor scale under a block config": (
        DSV3,
        layer(weight=W, weight_scale_inv=("F32", ())),
        "scale_shape",
        "128x128",
    ),
    "scale for each fused shard": (
        AUTO,
        layer(weight=W, weight_scale=("F32", (3,))),
        "scale_shape",
        "l",
    ),
    "input scale for each fused shard": (
        {**AUTO, "activation_scheme": "static"},
        layer(weight=W, weight_scale=("F32", ()), input_scale=("F32", (3,))),
        "scale_shape",
        "activation scale",
    ),
    "nvfp4 grid": (
        CT_NVFP4,
        {**nvfp4(48, 144), "l.weight_scale": ("F8_E4M3", (48, 8))},
        "scale_shape",
        "[48, 9]",
    ),
    "nvfp4 K": (
        CT_NVFP4,
        layer(weight_packed=("U8", (4, 12)), weight_scale=("F8_E4M3", (4, 1))),
        "weight_shape",
        "K = 24",
    ),
    "scale dtype": (DSV3, layer(weight=W, weight_scale_inv=("I32", (5, 2))), "scale_dtype", "I32"),
    "exponents for a tensor": (AUTO, layer(weight=W, weight_scale=("U8", ())), "scale_dtype", "U8"),
    "nvfp4 scale dtype": (
        CT_NVFP4,
        {**nvfp4(48, 144), "l.weight_scale": ("U8", (48, 9))},
        "scale_dtype",
        "F8_E4M3",
    ),
    "quantized but ignored": (
        {**AUTO, "ignored_layers": ["l"]},
        layer(weight=W, weight_scale=("F32", ())),
        "ignored_but_quantized",
        "ignored_layers",
    ),
    "quantized but ignored, hf prefix": (
        {**DSV3, "modules_to_not_convert": ["m"]},
        layer("m.l", weight=W, weight_scale_inv=SCALE),
        "ignored_but_quantized",
        '"m"',
    ),
    "quantized but ignored, ct": (
        {**CT_CHANNEL, "ignore": ["re:l"]},
        layer(weight=W, weight_scale=("F32", (576, 1))),
        "ignored_but_quantized",
        "re:l",
    ),
    "quantized but ignored, modelopt": (
        {**MOPT, "quant_algo": "FP8"},
        layer("model.layers.0.up", weight=W, weight_scale=("F32", ())),
        "ignored_but_quantized",
        "model.layers.0*",
    ),
    "bf16 weight with a scale": (
        DSV3,
        layer(weight=("BF16", (576, 144)), weight_scale_inv=SCALE),
        "scale_without_quantized_weight",
        "BF16",
    ),
    "int8 weight under fp8": (
        DSV3,
        layer(weight=("I8", (576, 144)), weight_scale_inv=SCALE),
        "weight_dtype",
        "I8",
    ),
    "fp8 weight under int8": (
        CT_INT8,
        layer(weight=W, weight_scale=("F32", (576, 1))),
        "weight_dtype",
        "F8_E4M3",
    ),
    "e5m2": (
        DSV3,
        layer(weight=("F8_E5M2", (576, 144)), weight_scale_inv=SCALE),
        "weight_dtype",
        "F8_E5M2",
    ),
    "packed weight under fp8": (DSV3, nvfp4(48, 144), "weight_dtype", "weight_packed"),
    "fp8 weight under nvfp4": (
        CT_NVFP4,
        layer(weight=W, weight_scale=("F32", (1,))),
        "weight_dtype",
        "U8",
    ),
    "two scales": (
        DSV3,
        layer(weight=W, weight_scale_inv=SCALE, weight_scale=SCALE),
        "two_scales",
        "weight_scale_inv",
    ),
    "bias shape": (
        DSV3,
        layer(weight=W, weight_scale_inv=SCALE, bias=("BF16", (575,))),
        "bias_shape",
        "[576]",
    ),
    "no group": (
        {
            **CT_CHANNEL,
            "config_groups": {
                "g": {**CT_CHANNEL["config_groups"]["group_0"], "targets": ["other"]}
            },
        },
        layer(weight=W, weight_scale=("F32", (576, 1))),
        "no_group",
        "l:",
    ),
    "stacked experts": (
        DSV3,
        layer(weight=("F8_E4M3", (4, 8, 8)), weight_scale_inv=("F32", (4, 1, 1))),
        "unsupported_format",
        "stacked",
    ),
    "experts without .weight": (
        DSV3,
        {"experts.gate_up_proj": ("F8_E4M3", (4, 8, 8))},
        "unsupported_format",
        "no linear",
    ),
    "dsv4 fp4 experts": (
        DSV3,
        layer(weight=("I8", (8, 64)), scale=("F8_E8M0", (8, 4))),
        "unsupported_format",
        "MXFP4",
    ),
    "fp8 without a config": (
        None,
        layer(weight=W, weight_scale=("F32", ())),
        "config_missing",
        "l.weight",
    ),
    "config without fp8": (DSV3, layer(weight=("BF16", (4, 4))), "nothing_quantized", "fp8"),
    "static blocks": ({**DSV3, "activation_scheme": "static"}, {}, "bad_config", "static"),
    "unknown activation scheme": ({**DSV3, "activation_scheme": "x"}, {}, "bad_config", "dynamic"),
    "unknown scale_fmt": ({**DSV3, "scale_fmt": "e5m3"}, {}, "bad_config", "ue8m0"),
    "block of one number": ({**DSV3, "weight_block_size": [128]}, {}, "bad_config", "[128, 128]"),
    "block of zero": ({**DSV3, "weight_block_size": [0, 128]}, {}, "bad_config", "[0, 128]"),
    "e5m2 config": ({**DSV3, "fmt": "e5m2"}, {}, "bad_config", "e5m2"),
    "zero points": (
        CT_INT8,
        layer(
            weight=("I8", (4, 4)), weight_scale=("F32", (4, 1)), weight_zero_point=("I8", (4, 1))
        ),
        "unsupported_format",
        "asymmetric",
    ),
    "asymmetric weights": (
        ct({**I8, "strategy": "channel", "symmetric": False}, None, "int-quantized"),
        {},
        "unsupported_format",
        "asymmetric",
    ),
    "asymmetric activations": (
        ct(
            {**I8, "strategy": "channel"},
            {**I8, "strategy": "token", "dynamic": True, "symmetric": False},
            "int-quantized",
        ),
        {},
        "unsupported_format",
        "asymmetric",
    ),
    "awq": ({**MOPT, "quant_algo": "NVFP4_AWQ"}, {}, "unsupported_format", "pre_quant_scale"),
    "awq tensors": (
        {**MOPT, "quant_algo": "NVFP4"},
        {**READS["modelopt nvfp4"][1], "l.pre_quant_scale": ("BF16", (144,))},
        "unsupported_format",
        "AWQ",
    ),
    "svdquant": ({**MOPT, "quant_algo": "NVFP4_SVD"}, {}, "unsupported_format", "SVDQuant"),
    "modelopt typo": ({**MOPT, "quant_algo": "NVFP5"}, {}, "unsupported_format", '"NVFP4"'),
    "group size": ({**MOPT, "quant_algo": "NVFP4", "group_size": 32}, {}, "bad_config", "32"),
    "int4": (
        ct(
            {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128},
            None,
            "pack-quantized",
        ),
        {},
        "unsupported_format",
        "int32",
    ),
    "ct mxfp4": (
        ct(
            {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32},
            None,
            "mxfp4-pack-quantized",
        ),
        {},
        "unsupported_format",
        "MXFP4",
    ),
    "ct format against weights": (
        ct({**F8, "strategy": "channel"}, None, "int-quantized"),
        {},
        "bad_config",
        "float-quantized",
    ),
    "ct sparse": (
        {**CT_CHANNEL, "sparsity_config": {"format": "sparse-24-bitmask"}},
        {},
        "unsupported_format",
        "sparse",
    ),
    "ct transforms": (
        {**CT_NVFP4, "transform_config": {"config_groups": {"r": {}}}},
        {},
        "unsupported_format",
        "rotat",
    ),
    "ct bad regex": ({**CT_CHANNEL, "ignore": ["re:("]}, {}, "bad_pattern", "re:("),
    "ct without groups": (
        {"quant_method": "compressed-tensors", "config_groups": {}},
        {},
        "bad_config",
        "config_groups",
    ),
    **{
        method: ({"quant_method": method}, {}, "unsupported_format", "reason")
        for method in (
            "mxfp4",
            "mxfp8",
            "gptq",
            "awq",
            "torchao",
            "quark",
            "fbgemm_fp8",
            "bitsandbytes",
            "bitsandbytes_4bit",
        )
    },
    "typo": (
        {"quant_method": "compresed-tensors"},
        {},
        "unknown_quant_method",
        'did you mean "compressed-tensors"',
    ),
    "nonsense": (
        {"quant_method": "zzz"},
        {},
        "unknown_quant_method",
        "fp8 compressed-tensors modelopt",
    ),
    "no method": ({"bits": 4}, {}, "unknown_quant_method", "bits"),
    "config of another type": ("fp8", {}, "bad_config", "fp8"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses_with_the_reason(make, case):
    quant, tensors, code, word = REFUSALS[case]
    refuses(make(tensors or READS["deepseek"][1], quant), code, word)


def test_refuses_carriers_that_disagree(make):
    legacy = {"quantization": {"quant_algo": "FP8"}}
    root = make(READS["modelopt nvfp4"][1], {**MOPT, "quant_algo": "NVFP4"}, legacy=legacy)
    refuses(root, "bad_config", "hf_quant_config.json")


def test_an_activation_scale_that_is_not_used_is_noted(make):
    tensors = layer(weight=W, weight_scale=("F32", ()), input_scale=("F32", ()))
    entry = the_entry(make(tensors, AUTO))
    assert "input_scale" not in entry.tensors
    assert "dynamic" in entry.notes[0]


MODULES = (
    "",
    ".headers",
    ".layer_entry",
    ".name_match",
    ".formats",
    ".formats.fp8",
    ".formats.compressed_tensors",
    ".formats.modelopt",
    ".formats.detect",
    ".safetensors_header",
)


def test_headers_formats_and_planning_do_not_import_torch(make):
    root = make(READS["ct nvfp4"][1], CT_NVFP4)
    imports = "\n".join(f"import quantmux.checkpoint{m}; check({m!r})" for m in MODULES)
    code = (
        "import sys\n"
        "def check(m): assert 'torch' not in sys.modules, m\n"
        f"{imports}\n"
        "from quantmux.checkpoint import open_checkpoint, plan_layers\n"
        f"assert len(plan_layers(open_checkpoint({str(root)!r}))) == 1; check('planning')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
