"""From an unquantized model to a quantized checkpoint."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantmux.checkpoint import convert, load_linear, open_checkpoint
from quantmux.errors import CheckpointError, ConfigError
from quantmux.layers.calibrate import Calibration
from quantmux.ops.linear.weights import quantize_weight

LINEARS = {
    "model.layers.0.mlp.up_proj": (200, 144),
    "model.layers.0.mlp.down_proj": (144, 200),
    "model.layers.0.self_attn.q_proj": (192, 144),
}
DYNAMIC = [
    "fp8_tensor",
    "fp8_channel_token",
    "fp8_block128",
    "fp8_block128_pow2",
    "fp8_w8a16",
    "nvfp4_w4a16",
    "int8_channel_token",
]
STATIC = ["fp8_tensor_static", "nvfp4"]


@pytest.fixture
def model(tmp_path):
    root = tmp_path / "model"
    root.mkdir()
    torch.manual_seed(0)
    tensors = {
        f"{name}.weight": (torch.randn(shape) * 0.05).bfloat16() for name, shape in LINEARS.items()
    }
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.randn(192).bfloat16()
    tensors["model.embed_tokens.weight"] = torch.randn(11, 144).bfloat16()
    tensors["model.layers.0.mlp.gate.weight"] = torch.randn(4, 144).bfloat16()
    tensors["model.norm.weight"] = torch.ones(144).bfloat16()
    tensors["lm_head.weight"] = torch.randn(11, 144).bfloat16()
    save_file(tensors, root / "model.safetensors")
    (root / "config.json").write_text(json.dumps({"torch_dtype": "bfloat16", "x": 1}))
    (root / "tokenizer.json").write_text("{}")
    return root


def scales(names=LINEARS):
    return dict.fromkeys(names, 0.0625)


@pytest.mark.parametrize("preset", DYNAMIC + STATIC)
def test_every_linear_is_what_quantize_weight_gives(tmp_path, model, preset):
    report = convert(
        model, tmp_path / "out", preset, calibration=scales() if preset in STATIC else None
    )
    checkpoint = open_checkpoint(report.path)
    source = load_file(model / "model.safetensors")
    entries = {e.name: e for e in checkpoint.layers()}
    fits = {n for n, (_, k) in LINEARS.items() if k % 16 == 0 or "nvfp4" not in preset}
    assert set(entries) == set(report.converted) == fits
    for name, entry in entries.items():
        assert entry.config.scheme.name == report.scheme == preset
        assert (entry.config.n, entry.config.k) == LINEARS[name]
        got = load_linear(checkpoint, entry)
        want = quantize_weight(source[f"{name}.weight"], entry.config.scheme)
        assert torch.equal(got.data.view(torch.uint8), want.data.view(torch.uint8))
        assert torch.equal(got.scales.view(torch.uint8), want.scales.view(torch.uint8))
        static = got.input_global_scale if preset == "nvfp4" else got.input_scale
        assert (static is None) == (preset not in STATIC)
        assert static is None or static.tolist() == [0.0625]
        assert (got.bias is not None) == name.endswith("q_proj")
    assert report.bytes_after < report.bytes_before


def test_what_is_no_linear_stays_with_its_reason(tmp_path, model):
    report = convert(model, tmp_path / "out", "nvfp4_w4a16")
    reasons = dict(report.skipped)
    assert set(reasons) == {
        "model.embed_tokens",
        "model.layers.0.mlp.gate",
        "lm_head",
        "model.layers.0.mlp.down_proj",
    }
    assert "excluded by *embed*" in reasons["model.embed_tokens"]
    assert "K = 200" in reasons["model.layers.0.mlp.down_proj"]
    before, after = (
        load_file(model / "model.safetensors"),
        load_file(tmp_path / "out/model.safetensors"),
    )
    for name in reasons:
        assert torch.equal(before[f"{name}.weight"], after[f"{name}.weight"])
    assert (tmp_path / "out/tokenizer.json").exists()
    quant = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]
    assert set(quant["ignore"]) == set(reasons) - {"model.embed_tokens"}


@pytest.mark.parametrize(
    ("include", "exclude", "want"),
    [
        (["*.mlp.*"], None, {"up_proj", "down_proj"}),
        (None, ["*.mlp.*", "lm_head", "*embed*"], {"q_proj"}),
        (["*_proj"], ["*down*"], {"up_proj", "q_proj"}),
    ],
)
def test_patterns_choose_the_linears(tmp_path, model, include, exclude, want):
    report = convert(model, tmp_path / "out", "fp8_tensor", include=include, exclude=exclude)
    assert {name.rpartition(".")[2] for name in report.converted} == want


@pytest.mark.parametrize("preset", STATIC)
@pytest.mark.parametrize(
    "calibration",
    [
        None,
        {},
        {"layers.0.mlp.up_proj": 1.0},
        {**dict.fromkeys(LINEARS, 1.0), "model.layers.0.mlp.up_proj": float("nan")},
        {**dict.fromkeys(LINEARS, 1.0), "model.layers.0.mlp.up_proj": 0.0},
    ],
)
def test_static_schemes_are_refused_without_calibration(tmp_path, model, preset, calibration):
    with pytest.raises(ConfigError) as caught:
        convert(model, tmp_path / "out", preset, calibration=calibration)
    assert caught.value.code == "needs_calibration"
    assert "calibrat" in caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("preset", "role", "divisor"),
    [("nvfp4", "input_global_scale", 2688), ("fp8_tensor_static", "input_scale", 448)],
)
def test_a_calibration_gives_amaxes_and_not_multipliers(tmp_path, model, preset, role, divisor):
    seen = Calibration(dict.fromkeys(LINEARS, 6.5), batches=1)
    report = convert(model, tmp_path / "out", preset, calibration=seen)
    checkpoint = open_checkpoint(report.path)
    for entry in checkpoint.layers():
        found = getattr(load_linear(checkpoint, entry), role)
        assert found.item() == pytest.approx(6.5 / divisor, rel=2**-22)


def test_refuses_a_calibration_that_saw_only_zeros(tmp_path, model):
    with pytest.raises(ConfigError, match="only zeros"):
        convert(
            model,
            tmp_path / "out",
            "nvfp4",
            calibration=Calibration(dict.fromkeys(LINEARS, 0.0), batches=1),
        )


def test_names_a_calibrated_layer_that_differs_by_its_prefix(tmp_path, model):
    names = [name.removeprefix("model.") for name in LINEARS]
    with pytest.raises(ConfigError, match=r'calibration names "layers\.0\.mlp\.up_proj"'):
        convert(
            model,
            tmp_path / "out",
            "nvfp4",
            include=["*up_proj"],
            calibration=dict.fromkeys(names, 1.0),
        )


def test_the_dynamic_global_scheme_cannot_be_stored(tmp_path, model):
    with pytest.raises(ConfigError, match="cannot be stored") as caught:
        convert(model, tmp_path / "out", "nvfp4_dynamic")
    assert "calibrate" in caught.value.hint


def test_progress_counts_every_layer(tmp_path, model):
    seen = []
    convert(model, tmp_path / "out", "fp8_tensor", progress=lambda *step: seen.append(step))
    assert [(done, total) for done, total, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    assert {name for _, _, name in seen} == set(LINEARS)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_refuses_weights_with_nan_or_inf_and_leaves_nothing(tmp_path, model, bad):
    tensors = load_file(model / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name][5, 7] = bad
    save_file(tensors, model / "model.safetensors")
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as caught:
        convert(model, tmp_path / "out", "fp8_block128")
    assert caught.value.code == "weight_value"
    assert "[5, 7]" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_refuses_a_model_that_is_quantized_already(tmp_path, model):
    convert(model, tmp_path / "a", "fp8_tensor")
    with pytest.raises(CheckpointError) as caught:
        convert(tmp_path / "a", tmp_path / "b", "fp8_tensor")
    assert caught.value.code == "already_quantized"


def test_refuses_to_overwrite_without_force(tmp_path, model):
    convert(model, tmp_path / "out", "fp8_tensor")
    with pytest.raises(ConfigError) as caught:
        convert(model, tmp_path / "out", "fp8_block128")
    assert caught.value.code == "exists"
    report = convert(model, tmp_path / "out", "fp8_block128", force=True)
    assert report.format == "deepseek_fp8"
    assert open_checkpoint(tmp_path / "out").layers()[0].config.scheme.name == "fp8_block128"


def test_refuses_one_string_for_a_list_of_patterns(tmp_path, model):
    for argument in ("include", "exclude"):
        with pytest.raises(ConfigError, match=f"{argument} is a list"):
            convert(model, tmp_path / "out", "fp8_tensor", **{argument: "*up_proj"})


def test_refuses_when_nothing_is_left(tmp_path, model):
    with pytest.raises(ConfigError) as caught:
        convert(model, tmp_path / "out", "fp8_tensor", include=["nothing"])
    assert caught.value.code == "nothing_to_convert"


def test_refuses_an_unknown_scheme_with_the_closest(tmp_path, model):
    with pytest.raises(ConfigError, match="did you mean"):
        convert(model, tmp_path / "out", "fp8_blok128")


def test_transposed_linears_of_gpt2_are_left_alone(tmp_path, model):
    tensors = load_file(model / "model.safetensors")
    tensors["h.0.attn.c_attn.weight"] = torch.randn(16, 48)
    save_file(tensors, model / "model.safetensors")
    (model / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    report = convert(model, tmp_path / "out", "fp8_tensor")
    assert "Conv1D" in dict(report.skipped)["h.0.attn.c_attn"]


def test_sharded_models_convert_to_shards(tmp_path, model):
    report = convert(model, tmp_path / "out", "fp8_block128", shard_bytes=40_000)
    checkpoint = open_checkpoint(report.path)
    assert len(checkpoint.files) > 1
    again = {n for n in checkpoint.tensors if not n.endswith("weight_scale_inv")}
    assert again == set(load_file(model / "model.safetensors"))


def plain(root, config, dtypes):
    """Write a model whose config.json says what is given; one linear per dtype."""
    root.mkdir()
    tensors = {f"l{i}.weight": torch.randn(32, 32).to(d) for i, d in enumerate(dtypes)}
    tensors["norm.weight"] = torch.ones(32, dtype=torch.bfloat16)
    save_file(tensors, root / "model.safetensors")
    if config is not None:
        (root / "config.json").write_text(json.dumps(config))
    return root


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (None, "torch_dtype"),
        ({"hidden_size": 32}, "torch_dtype"),
        ({"torch_dtype": None}, "torch_dtype"),
        ({"dtype": None}, "dtype"),
        ({"dtype": "auto", "torch_dtype": "float16"}, "dtype"),
        ({"text_config": {"torch_dtype": "auto"}}, "torch_dtype"),
    ],
)
@pytest.mark.parametrize(
    ("dtypes", "name", "fmt"),
    [
        ([torch.float32], "float32", "fp32"),
        ([torch.float16, torch.float32, torch.float16], "float16", "fp16"),
        ([torch.bfloat16], "bfloat16", "bf16"),
    ],
)
def test_a_dtype_that_the_config_does_not_name_is_that_of_most_weights(
    tmp_path, config, key, dtypes, name, fmt
):
    source = plain(tmp_path / "model", config, dtypes)
    report = convert(source, tmp_path / "out", "int8_channel_token")
    written = json.loads((report.path / "config.json").read_text())
    written.pop("quantization_config")
    assert written == {**(config or {}), key: name}
    entries = open_checkpoint(report.path).layers()
    assert len(entries) == len(dtypes)
    assert {(e.config.in_dtype, e.config.out_dtype) for e in entries} == {(fmt, fmt)}
    count = dtypes.count(getattr(torch, name))
    (note,) = (n for n in report.notes if "dtype" in n)
    assert f'"{key}": "{name}" was added, as {count} of {len(dtypes)} weights are' in note


@pytest.mark.parametrize("config", [{"dtype": "float16"}, {"text_config": {"dtype": "float16"}}])
def test_a_dtype_that_the_config_names_stays(tmp_path, config):
    source = plain(tmp_path / "model", config, [torch.float32, torch.float32])
    report = convert(source, tmp_path / "out", "int8_channel_token")
    written = json.loads((report.path / "config.json").read_text())
    written.pop("quantization_config")
    assert written == config
    assert {e.config.in_dtype for e in open_checkpoint(report.path).layers()} == {"fp16"}
    assert not [note for note in report.notes if "dtype" in note]
