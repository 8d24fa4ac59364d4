"""Writing: every format reads back, the same format gives the same bytes, nothing half-written."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import quantmux.checkpoint.write as write_module
from quantmux.checkpoint import (
    QuantizedLayer,
    load_layer,
    load_linear,
    open_checkpoint,
    write_checkpoint,
)
from quantmux.config import LinearConfig, scheme
from quantmux.errors import CheckpointError, ConfigError, InputError
from quantmux.ops.linear.weights import quantize_weight

ONE = torch.tensor([0.0123])


def make_layer(name, preset, n=192, k=144, *, bias=False, seed=0):
    torch.manual_seed(seed)
    wanted = scheme(preset)
    static = wanted.needs_static_activation_scale
    weights = quantize_weight(
        torch.randn(n, k) * 0.02,
        wanted,
        bias=torch.randn(n).bfloat16() if bias else None,
        input_scale=ONE if static and not wanted.weight.is_nvfp4 else None,
        input_global_scale=ONE if static and wanted.weight.is_nvfp4 else None,
    )
    config = LinearConfig(in_features=k, out_features=n, scheme=wanted, bias=bias)
    return QuantizedLayer(name, config, weights)


def same_bits(a, b):
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(
            a.contiguous().reshape(-1).view(torch.uint8),
            b.contiguous().reshape(-1).view(torch.uint8),
        )
    )


STORABLE = [
    ("fp8_block128", "deepseek_fp8"),
    ("fp8_block128_pow2", "deepseek_fp8"),
    ("fp8_tensor", "autofp8"),
    ("fp8_tensor_static", "autofp8"),
    ("fp8_tensor", "compressed_tensors"),
    ("fp8_tensor_static", "compressed_tensors"),
    ("fp8_tensor_token", "compressed_tensors"),
    ("fp8_channel_token", "compressed_tensors"),
    ("fp8_block128", "compressed_tensors"),
    ("fp8_w8a16", "compressed_tensors"),
    ("int8_channel_token", "compressed_tensors"),
    ("nvfp4", "compressed_tensors"),
    ("nvfp4_w4a16", "compressed_tensors"),
    ("fp8_tensor_static", "modelopt"),
    ("fp8_channel_token", "modelopt"),
    ("fp8_block128", "modelopt"),
    ("nvfp4", "modelopt"),
    ("nvfp4_w4a16", "modelopt"),
]
DEFAULTS = {
    "fp8_block128": "deepseek_fp8",
    "fp8_block128_pow2": "deepseek_fp8",
    "fp8_tensor": "autofp8",
    "fp8_tensor_static": "modelopt",
    "fp8_channel_token": "compressed_tensors",
    "fp8_w8a16": "compressed_tensors",
    "int8_channel_token": "compressed_tensors",
    "nvfp4": "compressed_tensors",
    "nvfp4_w4a16": "compressed_tensors",
}


@pytest.mark.parametrize(("preset", "fmt"), STORABLE)
def test_reading_gives_back_config_and_weights(tmp_path, preset, fmt):
    layers = [make_layer("m.0.up", preset, bias=True), make_layer("m.1.up", preset, 576, 32)]
    report = write_checkpoint(tmp_path / "out", layers, format=fmt)
    assert report.format == fmt
    checkpoint = open_checkpoint(report.path)
    entries = checkpoint.layers()
    assert [e.name for e in entries] == ["m.0.up", "m.1.up"]
    for entry, layer in zip(entries, layers, strict=True):
        assert entry.config == layer.config
        got = load_linear(checkpoint, entry).named()
        want = layer.weights.named()
        assert got.keys() == want.keys()
        for role, tensor in want.items():
            if fmt == "compressed_tensors" and role.endswith("global_scale"):
                # stored as a divisor: its reciprocal is within one rounding of the multiplier
                assert torch.allclose(got[role], tensor, rtol=2**-23, atol=0)
            else:
                assert same_bits(got[role], tensor), role


@pytest.mark.parametrize(("preset", "fmt"), STORABLE)
def test_read_and_written_in_the_same_format_every_byte_is_the_same(tmp_path, preset, fmt):
    write_checkpoint(tmp_path / "a", [make_layer("m.up", preset, bias=True)], format=fmt)
    a = open_checkpoint(tmp_path / "a")
    loaded = [load_layer(a, entry) for entry in a.layers()]
    write_checkpoint(tmp_path / "b", loaded, source=a, format=fmt)
    before = load_file(tmp_path / "a/model.safetensors")
    after = load_file(tmp_path / "b/model.safetensors")
    assert before.keys() == after.keys()
    assert all(same_bits(before[name], after[name]) for name in before)


FOREIGN = {
    "divisors": (
        "compressed_tensors",
        {
            "l.weight_packed": torch.randint(0, 256, (8, 16), dtype=torch.uint8),
            "l.weight_scale": torch.rand(8, 2).to(torch.float8_e4m3fn),
            "l.weight_global_scale": torch.tensor([1234.567]),
            "l.input_global_scale": torch.tensor([7.7]),
        },
    ),
    "bf16 channel scales": (
        "compressed_tensors",
        {
            "l.weight": torch.randn(8, 32).to(torch.float8_e4m3fn),
            "l.weight_scale": torch.rand(8, 1).bfloat16() + 0.1,
        },
    ),
    "exponents": (
        "deepseek_fp8",
        {
            "l.weight": torch.randn(130, 32).to(torch.float8_e4m3fn),
            "l.scale": torch.tensor([[120], [90]], dtype=torch.uint8).view(torch.float8_e8m0fnu),
        },
    ),
    "bytes": (
        "deepseek_fp8",
        {
            "l.weight": torch.randn(130, 32).to(torch.float8_e4m3fn),
            "l.weight_scale_inv": torch.tensor([[120], [90]], dtype=torch.uint8),
        },
    ),
    "hf per tensor": (
        "autofp8",
        {
            "l.weight": torch.randn(8, 32).to(torch.float8_e4m3fn),
            "l.weight_scale_inv": torch.tensor(0.3).bfloat16(),
            "l.activation_scale": torch.tensor([0.7]),
        },
    ),
    "modelopt 2-D channel": (
        "modelopt",
        {
            "l.weight": torch.randn(8, 32).to(torch.float8_e4m3fn),
            "l.weight_scale": torch.rand(8, 1) + 0.1,
        },
    ),
}
F8 = {"num_bits": 8, "type": "float"}
F4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
CONFIGS = {
    "divisors": {
        "quant_method": "compressed-tensors",
        "format": "nvfp4-pack-quantized",
        "config_groups": {
            "g": {
                "targets": ["Linear"],
                "weights": F4,
                "input_activations": {**F4, "dynamic": "local"},
            }
        },
    },
    "bf16 channel scales": {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {
            "g": {
                "targets": ["Linear"],
                "weights": {**F8, "strategy": "channel"},
                "input_activations": None,
            }
        },
    },
    "exponents": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "bytes": {"quant_method": "fp8", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"},
    "hf per tensor": {"quant_method": "fp8", "activation_scheme": "static"},
    "modelopt 2-D channel": {"quant_method": "modelopt", "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"},
}


@pytest.mark.parametrize("case", FOREIGN)
def test_the_spelling_of_a_foreign_file_survives_reading_and_writing(tmp_path, make, case):
    fmt, tensors = FOREIGN[case]
    root = make({}, CONFIGS[case])
    save_file(tensors, root / "model.safetensors")
    source = open_checkpoint(root)
    layers = [load_layer(source, entry) for entry in source.layers()]
    write_checkpoint(tmp_path / "out", layers, source=source, format=fmt)
    after = load_file(tmp_path / "out/model.safetensors")
    assert after.keys() == tensors.keys()
    assert all(same_bits(after[name], tensors[name]) for name in tensors)
    again = open_checkpoint(tmp_path / "out")
    assert [e.config for e in again.layers()] == [e.config for e in source.layers()]


def test_changed_scales_are_written_and_not_the_stored_ones(tmp_path):
    write_checkpoint(tmp_path / "a", [make_layer("l", "nvfp4")])
    a = open_checkpoint(tmp_path / "a")
    loaded = load_layer(a, a.layers()[0])
    loaded.weights.global_scale.mul_(2)
    write_checkpoint(tmp_path / "b", [loaded])
    b = open_checkpoint(tmp_path / "b")
    got = load_linear(b, b.layers()[0])
    assert torch.allclose(got.global_scale, loaded.weights.global_scale, rtol=2**-23, atol=0)


@pytest.mark.parametrize("preset", DEFAULTS)
def test_each_scheme_has_its_usual_format(tmp_path, preset):
    report = write_checkpoint(tmp_path / "out", [make_layer("l", preset)])
    assert report.format == DEFAULTS[preset]


def test_modelopt_to_compressed_tensors_notes_a_divisor_that_is_not_exact(tmp_path):
    layer = make_layer("l", "nvfp4")
    exact = torch.tensor([0.25])
    g = next(v for v in torch.rand(1000, 1) if float(1 / (1 / v)) != float(v))
    weights = layer.weights.__class__(
        layer.weights.data, layer.weights.scales, g, None, None, exact
    )
    report = write_checkpoint(tmp_path / "o", [QuantizedLayer("l", layer.config, weights)])
    assert [note.split(":")[0] for note in report.notes] == ["l.weight_global_scale"]


def test_several_schemes_become_groups_of_compressed_tensors(tmp_path):
    layers = [
        make_layer("m.0.up", "fp8_channel_token"),
        make_layer("m.0.down", "nvfp4_w4a16"),
        make_layer("m.1.up", "fp8_channel_token"),
    ]
    write_checkpoint(tmp_path / "o", layers, format="compressed_tensors")
    checkpoint = open_checkpoint(tmp_path / "o")
    assert checkpoint.quantization_config()["format"] == "mixed-precision"
    got = {e.name: e.config.scheme.name for e in checkpoint.layers()}
    assert got == {layer.name: layer.config.scheme.name for layer in layers}


def test_several_schemes_do_not_fit_a_format_of_one(tmp_path):
    layers = [make_layer("a", "fp8_tensor_static"), make_layer("b", "nvfp4")]
    with pytest.raises(ConfigError, match="holds one scheme"):
        write_checkpoint(tmp_path / "o", layers, format="modelopt")
    assert list(tmp_path.iterdir()) == []


def source_model(tmp_path):
    root = tmp_path / "source"
    (root / "1_Pooling").mkdir(parents=True)
    (root / "1_Pooling/config.json").write_text("{}")
    (root / "tokenizer.json").write_text('{"x": 1}')
    (root / "pytorch_model.bin").write_bytes(b"old weights")
    (root / ".git").mkdir()
    (root / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 144}))
    save_file(
        {
            "m.up.weight": torch.randn(192, 144).bfloat16(),
            "m.up.bias": torch.randn(192).bfloat16(),
            "m.gate.weight": torch.randn(4, 144),
            "embed.weight": torch.randn(7, 144).half(),
            "ids": torch.arange(9),
            "empty": torch.empty(0, 4),
        },
        root / "model.safetensors",
    )
    return root


def test_other_tensors_files_and_fields_are_kept(tmp_path):
    root, out = source_model(tmp_path), tmp_path / "out"
    write_checkpoint(out, [make_layer("m.up", "fp8_channel_token", bias=True)], source=root)
    assert {p.name for p in out.iterdir()} == {
        "1_Pooling",
        "tokenizer.json",
        "config.json",
        "model.safetensors",
    }
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == "bert"
    assert config["quantization_config"]["ignore"] == ["lm_head", "m.gate"]
    before, after = load_file(root / "model.safetensors"), load_file(out / "model.safetensors")
    for name in ("m.gate.weight", "embed.weight", "ids", "empty"):
        assert same_bits(before[name], after[name])
    assert set(open_checkpoint(out).other) == {"m.gate.weight", "embed.weight", "ids", "empty"}


@pytest.mark.parametrize("shard_bytes", [1, 30_000, 10**9])
def test_shards_have_an_index_and_read_back(tmp_path, shard_bytes):
    layers = [make_layer(f"m.{i}.up", "fp8_block128") for i in range(3)]
    report = write_checkpoint(tmp_path / "o", layers, shard_bytes=shard_bytes)
    index = tmp_path / "o/model.safetensors.index.json"
    assert index.exists() == (len(report.files) > 1)
    assert len(report.files) == {1: 6, 30_000: 3, 10**9: 1}[shard_bytes]
    checkpoint = open_checkpoint(tmp_path / "o")
    assert set(checkpoint.files) == set(report.files)
    for entry, layer in zip(checkpoint.layers(), layers, strict=True):
        assert same_bits(load_linear(checkpoint, entry).data, layer.weights.data)
    merged = {}
    for file in report.files:
        merged |= load_file(tmp_path / "o" / file)
    assert set(merged) == set(checkpoint.tensors)


def test_refuses_to_overwrite_without_force(tmp_path):
    layer = make_layer("l", "fp8_tensor")
    write_checkpoint(tmp_path / "o", [layer])
    before = (tmp_path / "o/model.safetensors").read_bytes()
    with pytest.raises(ConfigError) as caught:
        write_checkpoint(tmp_path / "o", [make_layer("l", "fp8_tensor", seed=1)])
    assert caught.value.code == "exists"
    assert (tmp_path / "o/model.safetensors").read_bytes() == before
    write_checkpoint(tmp_path / "o", [make_layer("l", "fp8_tensor", seed=1)], force=True)
    assert (tmp_path / "o/model.safetensors").read_bytes() != before
    assert [p.name for p in tmp_path.iterdir()] == ["o"]


def test_force_does_not_delete_what_is_no_checkpoint(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="holds no checkpoint"):
        write_checkpoint(tmp_path / "home", [make_layer("l", "fp8_tensor")], force=True)
    assert (tmp_path / "home/thesis.txt").exists()


@pytest.mark.parametrize("out", [".", "inside", ".."])
def test_refuses_to_write_over_the_source(tmp_path, out):
    root = source_model(tmp_path)
    with pytest.raises(ConfigError) as caught:
        write_checkpoint(root / out, [make_layer("m.up", "fp8_tensor")], source=root, force=True)
    assert caught.value.code == "same_directory"


@pytest.mark.parametrize("force", [True, False])
def test_an_error_in_the_middle_leaves_nothing_and_keeps_what_was_there(tmp_path, force):
    out = tmp_path / "o"
    if force:
        write_checkpoint(out, [make_layer("l", "fp8_tensor")])
        before = (out / "model.safetensors").read_bytes()

    def layers():
        yield make_layer("a", "fp8_tensor")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(out, layers(), force=force, shard_bytes=1)
    assert [p.name for p in tmp_path.iterdir()] == (["o"] if force else [])
    if force:
        assert (out / "model.safetensors").read_bytes() == before


def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write_module, "write_json", full)
    with pytest.raises(CheckpointError, match="No space left") as caught:
        write_checkpoint(tmp_path / "o", [make_layer("l", "fp8_tensor")])
    assert caught.value.code == "unwritable"
    assert list(tmp_path.iterdir()) == []


def test_an_empty_directory_is_filled(tmp_path):
    (tmp_path / "o").mkdir()
    write_checkpoint(tmp_path / "o", [make_layer("l", "fp8_tensor")])
    assert len(open_checkpoint(tmp_path / "o").layers()) == 1


@pytest.mark.parametrize(
    ("preset", "fmt"),
    [
        ("nvfp4_dynamic", "compressed_tensors"),
        ("nvfp4", "deepseek_fp8"),
        ("fp8_channel_token", "autofp8"),
        ("int8_channel_token", "modelopt"),
        ("fp8_block128_pow2", "compressed_tensors"),
        ("fp8_block128_pow2", "modelopt"),
    ],
)
def test_refuses_a_scheme_the_format_cannot_say(tmp_path, preset, fmt):
    with pytest.raises(ConfigError) as caught:
        write_checkpoint(tmp_path / "o", [make_layer("l", preset)], format=fmt)
    assert caught.value.code == "not_storable"
    assert ("calibrate" if "dynamic" in preset else "format=") in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_refuses_nvfp4_with_a_partial_block(tmp_path):
    with pytest.raises(CheckpointError, match="K % 16"):
        write_checkpoint(tmp_path / "o", [make_layer("l", "nvfp4_w4a16", 8, 24)])


def test_refuses_a_static_scheme_without_its_scale(tmp_path):
    layer = make_layer("l", "fp8_tensor_static")
    bare = layer.weights.__class__(layer.weights.data, layer.weights.scales)
    with pytest.raises(ConfigError) as caught:
        write_checkpoint(tmp_path / "o", [QuantizedLayer("l", layer.config, bare)])
    assert caught.value.code == "needs_calibration"


def test_refuses_an_unknown_format_with_the_closest(tmp_path):
    with pytest.raises(ConfigError, match='did you mean "modelopt"'):
        write_checkpoint(tmp_path / "o", [make_layer("l", "nvfp4")], format="modlopt")


def test_refuses_nothing_and_the_same_layer_twice(tmp_path):
    with pytest.raises(ConfigError, match="no layer"):
        write_checkpoint(tmp_path / "o", [])
    with pytest.raises(CheckpointError, match="twice"):
        write_checkpoint(tmp_path / "o", [make_layer("l", "fp8_tensor")] * 2)
    assert list(tmp_path.iterdir()) == []


def test_refuses_to_leave_quantized_layers_of_the_source_behind(tmp_path):
    layers = [make_layer("a", "fp8_tensor"), make_layer("b", "fp8_tensor")]
    write_checkpoint(tmp_path / "s", layers)
    with pytest.raises(ConfigError) as caught:
        write_checkpoint(tmp_path / "o", layers[:1], source=tmp_path / "s")
    assert caught.value.code == "layers_missing"


def test_extra_tensors_replace_those_of_the_source(tmp_path):
    root = source_model(tmp_path)
    layer = make_layer("m.up", "fp8_block128")
    write_checkpoint(tmp_path / "o", [layer], source=root, extra={"ids": torch.ones(2)})
    assert load_file(tmp_path / "o/model.safetensors")["ids"].tolist() == [1.0, 1.0]


def test_the_scheme_of_the_cache_is_kept_with_its_scales(tmp_path, make):
    cache = {"num_bits": 8, "type": "float"}
    root = make({}, {**CONFIGS["bf16 channel scales"], "kv_cache_scheme": cache})
    tensors = {**FOREIGN["bf16 channel scales"][1], "l.k_scale": torch.tensor([0.5])}
    save_file(tensors, root / "model.safetensors")
    source = open_checkpoint(root)
    layers = [load_layer(source, entry) for entry in source.layers()]
    write_checkpoint(tmp_path / "out", layers, source=source)
    out = open_checkpoint(tmp_path / "out")
    assert out.quantization_config()["kv_cache_scheme"] == cache
    assert "l.k_scale" in out.other


def test_refuses_weights_that_hold_a_bad_scale(tmp_path):
    layer = make_layer("l", "fp8_block128")
    layer.weights.scales[0, 0] = float("nan")
    with pytest.raises(InputError, match="l: weight scales"):
        write_checkpoint(tmp_path / "o", [layer])
    assert list(tmp_path.iterdir()) == []


NV = {"weight_scale": ("F8_E4M3", (192, 9))}
ON_DISK = {
    ("fp8_block128", "deepseek_fp8"): {
        "weight": ("F8_E4M3", (192, 144)),
        "weight_scale_inv": ("F32", (2, 2)),
    },
    ("fp8_tensor", "autofp8"): {"weight": ("F8_E4M3", (192, 144)), "weight_scale": ("F32", ())},
    ("fp8_tensor_static", "modelopt"): {
        "weight": ("F8_E4M3", (192, 144)),
        "weight_scale": ("F32", ()),
        "input_scale": ("F32", ()),
    },
    ("fp8_tensor_static", "compressed_tensors"): {
        "weight": ("F8_E4M3", (192, 144)),
        "weight_scale": ("F32", (1,)),
        "input_scale": ("F32", (1,)),
    },
    ("fp8_channel_token", "compressed_tensors"): {
        "weight": ("F8_E4M3", (192, 144)),
        "weight_scale": ("F32", (192, 1)),
    },
    ("fp8_channel_token", "modelopt"): {
        "weight": ("F8_E4M3", (192, 144)),
        "weight_scale": ("F32", (192,)),
    },
    ("fp8_block128", "modelopt"): {
        "weight": ("F8_E4M3", (192, 144)),
        "weight_scale": ("F32", (2, 1, 2, 1)),
    },
    ("int8_channel_token", "compressed_tensors"): {
        "weight": ("I8", (192, 144)),
        "weight_scale": ("F32", (192, 1)),
    },
    ("nvfp4", "compressed_tensors"): {
        "weight_packed": ("U8", (192, 72)),
        **NV,
        "weight_global_scale": ("F32", (1,)),
        "input_global_scale": ("F32", (1,)),
    },
    ("nvfp4", "modelopt"): {
        "weight": ("U8", (192, 72)),
        **NV,
        "weight_scale_2": ("F32", ()),
        "input_scale": ("F32", ()),
    },
    ("nvfp4_w4a16", "modelopt"): {
        "weight": ("U8", (192, 72)),
        **NV,
        "weight_scale_2": ("F32", ()),
    },
}


@pytest.mark.parametrize(("preset", "fmt"), ON_DISK)
def test_names_dtypes_and_shapes_are_those_of_the_wild(tmp_path, preset, fmt):
    write_checkpoint(tmp_path / "o", [make_layer("l", preset)], format=fmt)
    tensors = open_checkpoint(tmp_path / "o").tensors
    found = {name.removeprefix("l."): (t.dtype, t.shape) for name, t in tensors.items()}
    assert found == ON_DISK[preset, fmt]


def test_divisors_of_compressed_tensors_are_the_inverse_of_the_multipliers(tmp_path):
    layer = make_layer("l", "nvfp4")
    write_checkpoint(tmp_path / "o", [layer])
    stored = load_file(tmp_path / "o/model.safetensors")
    assert torch.equal(stored["l.weight_global_scale"], 1 / layer.weights.global_scale)
    assert torch.equal(stored["l.input_global_scale"], 1 / ONE)


def test_modelopt_writes_both_carriers_and_they_agree(tmp_path):
    write_checkpoint(tmp_path / "o", [make_layer("l", "nvfp4")], format="modelopt")
    config = json.loads((tmp_path / "o/config.json").read_text())["quantization_config"]
    legacy = json.loads((tmp_path / "o/hf_quant_config.json").read_text())
    assert config["quant_algo"] == legacy["quantization"]["quant_algo"] == "NVFP4"
    assert config["ignore"] == legacy["quantization"]["exclude_modules"] == ["lm_head"]
    assert legacy["quantization"]["group_size"] == 16
    (tmp_path / "o/config.json").unlink()
    assert open_checkpoint(tmp_path / "o").layers()[0].config.scheme.name == "nvfp4"


def test_the_config_of_block_fp8_says_block_and_exponents(tmp_path):
    for preset, scale_fmt in (("fp8_block128", None), ("fp8_block128_pow2", "ue8m0")):
        write_checkpoint(tmp_path / preset, [make_layer("l", preset)])
        quant = json.loads((tmp_path / preset / "config.json").read_text())["quantization_config"]
        assert quant["weight_block_size"] == [128, 128]
        assert quant["activation_scheme"] == "dynamic"
        assert quant.get("scale_fmt") == scale_fmt
