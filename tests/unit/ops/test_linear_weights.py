"""Canonical weights: how they are made, and every way in which they can be wrong."""

import dataclasses

import pytest
import torch

from quantmux.config import LinearConfig, operand, scheme
from quantmux.config.schemes import SCHEMES
from quantmux.errors import DtypeError, InputError, ShapeError
from quantmux.ops.inputs import make_matrix
from quantmux.ops.linear.weights import check_weights, quantize_weight

N, K = 130, 200


def config_of(name, *, bias=False, n=N, k=K):
    return LinearConfig(in_features=k, out_features=n, scheme=name, bias=bias)


def weights_of(name, *, bias=False, n=N, k=K):
    return quantize_weight(
        make_matrix("normal", n, k, "fp32", seed=1),
        scheme(name),
        bias=torch.ones(n) if bias else None,
        input_scale=torch.tensor([0.01]),
        input_global_scale=torch.tensor([0.01]),
    )


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (130, 200), (128, 256), (16, 17)])
def test_quantized_weights_pass_the_check_of_their_config(name, n, k):
    check_weights(weights_of(name, n=n, k=k), config_of(name, n=n, k=k))
    check_weights(weights_of(name, bias=True, n=n, k=k), config_of(name, bias=True, n=n, k=k))


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("fp8_tensor", (1,), torch.float32),
        ("fp8_channel_token", (N, 1), torch.float32),
        ("fp8_block128", (2, 2), torch.float32),
        ("int8_channel_token", (N, 1), torch.float32),
        ("nvfp4", (N, 13), torch.float8_e4m3fn),
    ],
)
def test_scales_have_the_canonical_shape(name, shape, dtype):
    weights = weights_of(name)
    assert weights.scales.shape == shape
    assert weights.scales.dtype == dtype
    assert weights.data.shape == ((N, 104) if name == "nvfp4" else (N, K))
    assert (weights.global_scale is not None) == (name == "nvfp4")


def test_nvfp4_pads_k_to_a_multiple_of_16_with_zeros():
    weights = weights_of("nvfp4", n=4, k=17)
    assert weights.data.shape == (4, 16)
    assert not (weights.data[:, 8] >> 4).any()
    assert not weights.data[:, 9:].any()


def test_pow2_weight_scales_are_powers_of_two():
    mantissa, _ = torch.frexp(weights_of("fp8_block128_pow2").scales)
    assert (mantissa == 0.5).all()


def test_quantizing_keeps_what_was_given_and_shares_the_bias():
    bias = torch.ones(4, dtype=torch.bfloat16)
    given = torch.tensor([0.5])
    weights = quantize_weight(
        torch.ones(4, 16), scheme("fp8_tensor_static"), bias=bias, input_scale=given
    )
    assert weights.bias.data_ptr() == bias.data_ptr()
    assert weights.input_scale is given


def test_an_all_zero_weight_is_legal_for_every_scheme():
    for name in SCHEMES:
        made = quantize_weight(
            torch.zeros(8, 32),
            scheme(name),
            input_scale=torch.ones(1),
            input_global_scale=torch.ones(1),
        )
        check_weights(made, config_of(name, n=8, k=32))


@pytest.mark.parametrize(
    ("weight", "bias", "error", "message"),
    [
        (torch.ones(4), None, ShapeError, r"\[N, K\]"),
        (torch.ones(0, 4), None, ShapeError, r"\[N, K\]"),
        (torch.ones(4, 4, dtype=torch.int8), None, DtypeError, "fp32, bf16 or fp16"),
        (torch.tensor([[1.0, torch.nan]]), None, InputError, "NaN or Inf"),
        (torch.ones(4, 4), torch.ones(3), ShapeError, "bias"),
        (torch.ones(4, 4), torch.ones(4, dtype=torch.int32), DtypeError, "bias"),
    ],
)
def test_refuses_a_weight_that_cannot_be_quantized(weight, bias, error, message):
    with pytest.raises(error, match=message):
        quantize_weight(weight, scheme("fp8_tensor"), bias=bias)


@pytest.mark.parametrize(
    ("name", "part", "value", "error", "message"),
    [
        ("fp8_block128", "data", torch.zeros(N, K + 1).to(torch.float8_e4m3fn), ShapeError,
         "weight has the wrong shape"),
        ("fp8_block128", "data", torch.zeros(N, K), DtypeError, "float8_e4m3fn"),
        ("fp8_block128", "scales", torch.ones(2, 1), ShapeError, "scales has the wrong shape"),
        ("fp8_channel_token", "scales", torch.ones(N), ShapeError, "scales has the wrong shape"),
        ("fp8_tensor", "scales", torch.ones(()), ShapeError, "scales has the wrong shape"),
        ("fp8_tensor", "scales", torch.ones(1).half(), DtypeError, "float32"),
        ("fp8_tensor", "scales", torch.tensor([torch.nan]), InputError, "no scale"),
        ("fp8_tensor", "scales", torch.tensor([torch.inf]), InputError, "no scale"),
        ("fp8_tensor", "scales", torch.tensor([0.0]), InputError, "no scale"),
        ("fp8_tensor", "scales", torch.tensor([-1.0]), InputError, "no scale"),
        ("nvfp4", "scales", torch.full((N, 13), 0xFF, dtype=torch.uint8).view(
            torch.float8_e4m3fn), InputError, "no scale"),
        ("nvfp4", "scales", -torch.ones(N, 13).to(torch.float8_e4m3fn).float(), DtypeError,
         "float8_e4m3fn"),
        ("nvfp4", "global_scale", None, InputError, "global scale is missing"),
        ("nvfp4", "global_scale", torch.zeros(1), InputError, "no scale"),
        ("fp8_tensor", "global_scale", torch.ones(1), InputError, "has none"),
        ("fp8_tensor_static", "input_scale", None, InputError, "input_scale is missing"),
        ("fp8_tensor_static", "input_scale", torch.tensor([-1.0]), InputError, "no scale"),
        ("nvfp4", "input_global_scale", None, InputError, "input_global_scale is missing"),
        ("fp8_tensor", "bias", torch.ones(N), InputError, "bias is given"),
    ],
)  # fmt: skip
def test_refuses_weights_that_disagree_with_the_config(name, part, value, error, message):
    weights = dataclasses.replace(weights_of(name), **{part: value})
    with pytest.raises(error, match=message) as found:
        check_weights(weights, config_of(name), name="model.layers.3")
    assert str(found.value).startswith(("model.layers.3: ", "model.layers.3:"))


def test_refuses_a_missing_and_a_misshapen_bias():
    config = config_of("fp8_tensor", bias=True)
    with pytest.raises(InputError, match="bias is missing"):
        check_weights(weights_of("fp8_tensor"), config)
    short = dataclasses.replace(weights_of("fp8_tensor"), bias=torch.ones(N - 1))
    with pytest.raises(ShapeError, match="bias"):
        check_weights(short, config)
    whole = dataclasses.replace(weights_of("fp8_tensor"), bias=torch.ones(N, dtype=torch.int64))
    with pytest.raises(DtypeError, match="bias"):
        check_weights(whole, config)


def test_a_missing_static_scale_names_the_way_to_find_it():
    weights = dataclasses.replace(weights_of("fp8_tensor_static"), input_scale=None)
    with pytest.raises(InputError) as error:
        check_weights(weights, config_of("fp8_tensor_static"))
    assert error.value.code == "missing_scale"
    assert "calibrate" in error.value.hint


def test_the_first_bad_scale_is_named_with_its_place_and_the_count():
    weights = weights_of("fp8_block128")
    scales = weights.scales.clone()
    scales[1, 0], scales[1, 1] = torch.nan, -1.0
    with pytest.raises(InputError) as error:
        check_weights(dataclasses.replace(weights, scales=scales), config_of("fp8_block128"))
    assert "nan at [1, 0], 2 in all" in str(error.value)


def test_a_zero_block_scale_is_a_scale_for_nvfp4_only():
    weight = make_matrix("normal", 4, 32, "fp32", seed=2)
    weight[1, 16:] = 0.0
    made = quantize_weight(weight, scheme("nvfp4_w4a16"))
    assert float(made.scales[1, 1].float()) == 0.0
    check_weights(made, config_of("nvfp4_w4a16", n=4, k=32))


@pytest.mark.parametrize("bad", [0.3, 1.5, 2.0**-130])
def test_scales_of_a_pow2_scheme_that_are_no_powers_of_two_are_refused(bad):
    weights = weights_of("fp8_block128_pow2")
    check_weights(weights, config_of("fp8_block128_pow2"))
    scales = weights.scales.clone()
    scales[1, 1] = bad
    with pytest.raises(InputError, match="power of two") as error:
        check_weights(dataclasses.replace(weights, scales=scales), config_of("fp8_block128_pow2"))
    assert error.value.code == "scale_not_pow2"
    assert "at [1, 1], 1 in all" in str(error.value)
    scales[1, 1] = 2.0**-127  # the least UE8M0 value, subnormal in fp32
    check_weights(dataclasses.replace(weights, scales=scales), config_of("fp8_block128_pow2"))


def test_scales_of_another_scheme_do_not_serve_pow2():
    plain = weights_of("fp8_block128")
    with pytest.raises(InputError, match="power of two"):
        check_weights(plain, config_of("fp8_block128_pow2"))
    check_weights(weights_of("fp8_block128_pow2"), config_of("fp8_block128"))


def test_a_static_pow2_activation_needs_a_power_of_two():
    activation = operand("fp8_tensor_pow2").replace(dynamic=False)
    static = scheme("fp8_tensor").replace(activation=activation)
    config = LinearConfig(in_features=K, out_features=N, scheme=static)
    weight = make_matrix("normal", N, K, "fp32", seed=1)
    good = quantize_weight(weight, static, input_scale=torch.tensor([0.25]))
    check_weights(good, config)
    bad = dataclasses.replace(good, input_scale=torch.tensor([0.3]))
    with pytest.raises(InputError, match="input_scale holds a value that is no power of two"):
        check_weights(bad, config)
