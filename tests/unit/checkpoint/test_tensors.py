"""Loading: values checked against files written by safetensors itself, and damaged scales."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantmux.checkpoint import convert, load_layer, load_linear, load_tensor, open_checkpoint
from quantmux.errors import CheckpointError
from quantmux.ops.linear.weights import check_weights

DSV3 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
AUTO = {"quant_method": "fp8", "activation_scheme": "dynamic"}
F4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
CT_NVFP4 = {
    "quant_method": "compressed-tensors",
    "format": "nvfp4-pack-quantized",
    "config_groups": {
        "g": {"targets": ["Linear"], "weights": F4, "input_activations": {**F4, "dynamic": "local"}}
    },
}
MOPT_NVFP4 = {"quant_method": "modelopt", "quant_algo": "NVFP4"}


@pytest.fixture
def saved(make):
    """Give a function that saves real tensors with safetensors, beside a config."""

    def _saved(tensors, quant, **more):
        root = make({}, quant, **more)
        save_file(tensors, root / "model.safetensors")
        return open_checkpoint(root)

    return _saved


def codes(n, k):
    return torch.randn(n, k, generator=torch.Generator().manual_seed(1)).to(torch.float8_e4m3fn)


def packed(n, k):
    g = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (n, k // 2), generator=g, dtype=torch.uint8)


def refuses(checkpoint, code, *words):
    (entry,) = checkpoint.layers()
    with pytest.raises(CheckpointError) as caught:
        load_linear(checkpoint, entry)
    assert caught.value.code == code
    for word in words:
        assert word in str(caught.value), str(caught.value)


def load_one(checkpoint):
    (entry,) = checkpoint.layers()
    weights = load_linear(checkpoint, entry)
    check_weights(weights, entry.config)
    return weights


@pytest.mark.parametrize("shape", [(576, 144), (192, 2048), (1, 1), (129, 130)])
def test_block_scales_are_the_stored_multipliers(saved, shape):
    n, k = shape
    scales = torch.rand(-(-n // 128), -(-k // 128)) * 1e-4 + 1e-6
    weight = codes(n, k)
    got = load_one(saved({"l.weight": weight, "l.weight_scale_inv": scales}, DSV3))
    assert torch.equal(got.data.view(torch.uint8), weight.view(torch.uint8))
    assert torch.equal(got.scales, scales)


def test_bf16_and_fp16_scales_are_widened_exactly(saved):
    for dtype in (torch.bfloat16, torch.float16):
        scales = (torch.rand(5, 2) + 0.01).to(dtype)
        checkpoint = saved(
            {"l.weight": codes(576, 144), "l.weight_scale_inv": scales}, DSV3, name=str(dtype)
        )
        assert torch.equal(load_one(checkpoint).scales, scales.float())


@pytest.mark.parametrize("as_bytes", [True, False])
def test_exponent_scales_become_powers_of_two(saved, as_bytes):
    exponents = torch.tensor([[0, 1, 127], [128, 126, 254]], dtype=torch.uint8)
    stored = exponents if as_bytes else exponents.view(torch.float8_e8m0fnu)
    checkpoint = saved(
        {"l.weight": codes(130, 300), "l.weight_scale_inv": stored}, {**DSV3, "scale_fmt": "ue8m0"}
    )
    want = [[2.0**-127, 2.0**-126, 1.0], [2.0, 0.5, 2.0**127]]
    assert load_one(checkpoint).scales.tolist() == want


def test_refuses_the_nan_exponent(saved):
    stored = torch.tensor([[127, 255]], dtype=torch.uint8)
    checkpoint = saved({"l.weight": codes(8, 130), "l.weight_scale_inv": stored}, DSV3)
    refuses(checkpoint, "scale_value", "l.weight_scale_inv", "nan at [0, 1]")


def test_refuses_fp32_scales_that_are_no_powers_of_two_under_ue8m0(saved):
    scales = torch.tensor([[0.25, 0.3]])
    checkpoint = saved(
        {"l.weight": codes(8, 130), "l.weight_scale_inv": scales}, {**DSV3, "scale_fmt": "ue8m0"}
    )
    refuses(checkpoint, "scale_not_pow2", "0.3 at [0, 1]")


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf"), -0.0])
def test_refuses_a_block_scale_that_is_no_scale(saved, bad):
    scales = torch.ones(5, 2)
    scales[3, 1] = bad
    checkpoint = saved({"l.weight": codes(576, 144), "l.weight_scale_inv": scales}, DSV3)
    refuses(checkpoint, "scale_value", "l.weight_scale_inv", "[3, 1]")


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("leaf", ["weight_global_scale", "input_global_scale"])
def test_refuses_a_divisor_that_is_no_scale(saved, bad, leaf):
    tensors = {
        "l.weight_packed": packed(4, 32),
        "l.weight_scale": torch.ones(4, 2).to(torch.float8_e4m3fn),
        "l.weight_global_scale": torch.ones(1),
        "l.input_global_scale": torch.ones(1),
    }
    tensors[f"l.{leaf}"] = torch.tensor([bad])
    refuses(saved(tensors, CT_NVFP4), "scale_value", f"l.{leaf}")


def test_nvfp4_block_scales_may_be_zero_but_not_nan_or_negative(saved):
    def tensors(value):
        scales = torch.ones(4, 2)
        scales[2, 0] = value
        return {
            "l.weight": packed(4, 32),
            "l.weight_scale": scales.to(torch.float8_e4m3fn),
            "l.weight_scale_2": torch.tensor(0.5),
            "l.input_scale": torch.tensor(2.0),
        }

    assert float(load_one(saved(tensors(0.0), MOPT_NVFP4)).scales[2, 0]) == 0
    for i, bad in enumerate((float("nan"), -1.0)):
        refuses(saved(tensors(bad), MOPT_NVFP4, name=f"m{i}"), "scale_value", "[2, 0]")


def test_both_spellings_of_nvfp4_give_the_same_multipliers(saved):
    weight, scales = packed(48, 144), torch.rand(48, 9).to(torch.float8_e4m3fn)
    ct = load_one(
        saved(
            {
                "l.weight_packed": weight,
                "l.weight_scale": scales,
                "l.weight_global_scale": torch.tensor([4096.0]),
                "l.input_global_scale": torch.tensor([8.0]),
            },
            CT_NVFP4,
        )
    )
    modelopt = load_one(
        saved(
            {
                "l.weight": weight,
                "l.weight_scale": scales,
                "l.weight_scale_2": torch.tensor(1 / 4096),
                "l.input_scale": torch.tensor(0.125),
            },
            MOPT_NVFP4,
            name="m",
        )
    )
    for name, tensor in ct.named().items():
        other = modelopt.named()[name]
        assert tensor.dtype == other.dtype
        assert torch.equal(tensor.view(torch.uint8), other.view(torch.uint8)), name
    assert ct.global_scale.tolist() == [1 / 4096]


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_number_is_one_number_in_every_shape(saved, shape):
    tensors = {
        "l.weight": codes(8, 24),
        "l.weight_scale": torch.full(shape, 0.5),
        "l.input_scale": torch.full(shape, 2.0),
    }
    got = load_one(saved(tensors, {**AUTO, "activation_scheme": "static"}))
    assert got.scales.tolist() == [0.5]
    assert got.input_scale.tolist() == [2.0]


def test_four_dimensional_modelopt_scales_become_the_grid(saved):
    scales = torch.rand(5, 1, 2, 1) + 0.1
    checkpoint = saved(
        {"l.weight": codes(576, 144), "l.weight_scale": scales},
        {"quant_method": "modelopt", "quant_algo": "FP8_PB_WO"},
    )
    assert torch.equal(load_one(checkpoint).scales, scales[:, 0, :, 0])


def test_the_bias_keeps_its_dtype(saved):
    bias = torch.randn(8).to(torch.float16)
    tensors = {"l.weight": codes(8, 24), "l.weight_scale": torch.tensor(0.5), "l.bias": bias}
    assert torch.equal(load_one(saved(tensors, AUTO)).bias, bias)


def test_stored_scales_keep_the_bits_of_the_file(saved):
    divisor = torch.tensor([1234.567])
    checkpoint = saved(
        {
            "l.weight_packed": packed(4, 32),
            "l.weight_scale": torch.ones(4, 2).to(torch.float8_e4m3fn),
            "l.weight_global_scale": divisor,
            "l.input_global_scale": divisor / 3,
        },
        CT_NVFP4,
    )
    (entry,) = checkpoint.layers()
    loaded = load_layer(checkpoint, entry)
    kept = loaded.stored.tensors["global_scale"]
    assert kept.leaf == "weight_global_scale"
    assert torch.equal(kept.tensor, divisor)
    assert torch.equal(kept.canonical(), loaded.weights.global_scale)


def test_codes_are_pages_of_the_file_and_writing_into_them_leaves_it_alone(saved):
    checkpoint = saved({"l.weight": codes(8, 24), "l.weight_scale": torch.tensor(0.5)}, AUTO)
    (entry,) = checkpoint.layers()
    before = (checkpoint.root / "model.safetensors").read_bytes()
    first, second = load_linear(checkpoint, entry), load_linear(checkpoint, entry)
    assert first.data.data_ptr() == second.data.data_ptr()
    first.data.view(torch.uint8).fill_(7)
    assert (checkpoint.root / "model.safetensors").read_bytes() == before


def test_a_misaligned_tensor_is_read_too(make, safetensors_file):
    root = make({}, AUTO)
    scale = torch.tensor([0.375])
    safetensors_file(
        root / "model.safetensors",
        {
            "l.weight": ("F8_E4M3", (3, 1), b"\x38\x39\x3a"),
            "l.weight_scale": ("F32", (), bytes(scale.view(torch.uint8).tolist())),
        },
    )
    assert load_one(open_checkpoint(root)).scales.tolist() == [0.375]


def test_reads_tensors_of_other_dtypes_as_stored(saved):
    tensors = {
        "ids": torch.arange(5),
        "half": torch.randn(3).half(),
        "flag": torch.ones(2).bool(),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(1.5, dtype=torch.float64),
    }
    checkpoint = saved(tensors, None)
    for name, want in tensors.items():
        got = load_tensor(checkpoint, name)
        assert got.dtype == want.dtype
        assert torch.equal(got, want)
    with pytest.raises(CheckpointError, match="no tensor nothing"):
        load_tensor(checkpoint, "nothing")


def test_a_file_that_shrank_after_opening_is_an_error_and_not_a_crash(saved):
    checkpoint = saved({"l.weight": codes(8, 24), "l.weight_scale": torch.tensor(0.5)}, AUTO)
    file = checkpoint.root / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    refuses(checkpoint, "truncated", "changed while it was open")


@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_refuses_a_weight_that_is_no_number(tmp_path, code):

    source, out = tmp_path / "model", tmp_path / "out"
    source.mkdir()
    save_file({"a.weight": torch.randn(128, 128)}, source / "model.safetensors")
    (source / "config.json").write_text("{}")
    convert(source, out, "fp8_block128")
    tensors = load_file(out / "model.safetensors")
    tensors["a.weight"].view(torch.uint8)[3, 5] = code
    save_file(tensors, out / "model.safetensors")
    checkpoint = open_checkpoint(out)
    with pytest.raises(CheckpointError, match="no numbers") as caught:
        load_linear(checkpoint, checkpoint.layers()[0])
    assert caught.value.code == "weight_value"
    assert "first at [3, 5], 1 in all" in str(caught.value)
