import copy
import io
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from quantmux.config import SCHEMES, LinearConfig, scheme
from quantmux.errors import (
    ConfigError,
    DtypeError,
    ForcedKernelError,
    InputError,
    LayoutError,
    ShapeError,
)
from quantmux.layers.linear import Linear
from quantmux.ops.linear.reference import linear
from quantmux.ops.linear.weights import quantize_weight
from quantmux.runtime.producers import quantize

SCALES = {
    "fp8_tensor_static": {"input_scale": 0.02},
    "nvfp4": {"input_global_scale": 0.003},
}
NAMES = sorted(SCHEMES)


def weight(n=48, k=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, k, generator=generator) * 10 ** torch.linspace(-4, 2, n)[:, None]


def made(name, n=48, k=64, bias=True, **kwargs):
    given = {**SCALES.get(name, {}), "in_dtype": "bf16", **kwargs}
    return Linear.from_float(weight(n, k), name, torch.arange(float(n)) if bias else None, **given)


def inputs(*shape, dtype=torch.bfloat16):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def bits(tensor):
    return tensor.detach().contiguous().view(torch.uint8)


def same_state(a, b):
    return list(a) == list(b) and all(
        a[k].dtype == b[k].dtype and torch.equal(bits(a[k]), bits(b[k])) for k in a
    )


def close(layer, x):
    """Near the reference: what runs may be an emulation in fp32."""
    y, want = layer(x), linear(x, layer.weights, layer.config)
    error = (y.double() - want.double()).norm() / want.double().norm()
    return float(error) < 5e-3


@pytest.mark.parametrize("name", NAMES)
def test_every_scheme_runs_near_its_reference(name):
    layer = made(name)
    assert layer.config.scheme.name == name
    for m in (1, 5, 33):
        assert close(layer, inputs(m, 64))


@pytest.mark.parametrize("name", ["fp8_block128", "nvfp4", "int8_channel_token"])
@pytest.mark.parametrize(("n", "k"), [(47, 65), (129, 200), (1, 16)])
def test_odd_shapes_run(name, n, k):
    assert close(made(name, n, k), inputs(3, k))


def test_any_leading_dimensions_are_taken_and_given_back():
    layer = made("fp8_channel_token")
    flat = layer(inputs(30, 64))
    assert torch.equal(layer(inputs(30, 64).view(2, 3, 5, 64)), flat.view(2, 3, 5, 48))
    assert torch.equal(layer(inputs(30, 64)[0]), flat[0])
    assert layer(torch.zeros(0, 64, dtype=torch.bfloat16)).shape == (0, 48)
    assert layer(torch.zeros(4, 0, 64, dtype=torch.bfloat16)).shape == (4, 0, 48)


def test_a_quantized_x_gives_what_the_plain_one_gives():
    layer = made("fp8_block128", k=256)
    x = inputs(7, 256)
    reads = layer.input_layout(7)
    assert reads.operand.name == "fp8_group128"
    assert torch.equal(layer(quantize(x, reads)), layer(x))
    with pytest.raises(LayoutError, match="fp8_token"):
        layer(quantize(x, reads.replace(operand="fp8_token", layout="row_major")))


def test_weight_only_reads_a_plain_x():
    assert made("nvfp4_w4a16").input_layout(8) is None


def test_nvfp4_without_a_global_scale_becomes_dynamic_and_says_so(caplog):
    with caplog.at_level(logging.INFO, "quantmux"):
        layer = Linear.from_float(weight(), "nvfp4", in_dtype="bf16", layer="model.q")
    assert layer.config.scheme.name == "nvfp4_dynamic"
    assert "model.q: scheme nvfp4 without input_global_scale becomes nvfp4_dynamic" in caplog.text
    assert close(layer, inputs(5, 64))


def test_static_fp8_without_a_scale_is_refused_and_never_one():
    with pytest.raises(ConfigError, match=r"calibrate") as caught:
        Linear.from_float(weight(), "fp8_tensor_static", layer="model.q")
    assert "model.q" in str(caught.value)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), "a", [1.0, 2.0]])
def test_a_scale_that_is_none_is_refused(value):
    with pytest.raises(InputError, match="input_scale"):
        Linear.from_float(weight(), "fp8_tensor_static", input_scale=value)


def test_a_scale_the_scheme_has_no_use_for_is_refused():
    with pytest.raises(ConfigError, match="no input_scale"):
        Linear.from_float(weight(), "fp8_tensor", input_scale=1.0)


def test_a_weight_with_nan_or_inf_is_refused():
    for value in (float("nan"), float("inf")):
        bad = weight()
        bad[3, 5] = value
        with pytest.raises(InputError, match="NaN or Inf"):
            Linear.from_float(bad, "fp8_tensor")


def test_formats_follow_the_weight_unless_given():
    assert Linear.from_float(weight(), "fp8_tensor").config.in_dtype == "fp32"
    half = Linear.from_float(weight().half(), "fp8_tensor", out_dtype="bf16")
    assert (half.config.in_dtype, half.config.out_dtype) == ("fp16", "bf16")
    assert half(inputs(2, 64, dtype=torch.float16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("x", "error"),
    [
        (torch.zeros(2, 63, dtype=torch.bfloat16), ShapeError),
        (torch.zeros((), dtype=torch.bfloat16), ShapeError),
        (torch.zeros(2, 64), DtypeError),
        (torch.zeros(2, 64, dtype=torch.bfloat16, device="meta"), InputError),
        ([1.0], InputError),
        (None, InputError),
    ],
)
def test_a_wrong_input_is_a_typed_error(x, error):
    layer = made("fp8_channel_token")
    with pytest.raises(error):
        layer(x)
    assert layer.bind().events == ()


def test_an_input_that_needs_a_gradient_is_an_error_unless_gradients_are_off():
    layer = made("fp8_channel_token")
    x = inputs(2, 64).requires_grad_()
    with pytest.raises(InputError, match="no_grad"):
        layer(x)
    with torch.no_grad():
        assert layer(x).shape == (2, 48)
    assert layer(x.detach()).shape == (2, 48)


def test_nan_in_a_row_spoils_that_row_only():
    layer = made("fp8_channel_token", bias=False)
    x = inputs(4, 64)
    clean = layer(x)
    x[2, 7] = float("nan")
    dirty = layer(x)
    assert torch.isnan(dirty[2]).all()
    assert torch.equal(dirty[[0, 1, 3]], clean[[0, 1, 3]])


@pytest.mark.parametrize("name", NAMES)
def test_the_state_dict_is_canonical_before_and_after_the_bind(name):
    layer = made(name)
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    want = quantize_weight(weight(), scheme(name), bias=torch.arange(48.0))
    assert torch.equal(bits(before["weight"]), bits(want.data))
    assert torch.equal(bits(before["weight_scale"]), bits(want.scales))
    layer(inputs(3, 64))
    assert same_state(layer.state_dict(), before)


@pytest.mark.parametrize("name", NAMES)
def test_loading_after_the_bind_prepares_again(name):
    layer, x = made(name), inputs(3, 64)
    layer(x)
    other = Linear.from_float(
        weight(seed=9), name, torch.ones(48), **{**SCALES.get(name, {}), "in_dtype": "bf16"}
    )
    want = other(x)
    state = other.state_dict()
    layer.load_state_dict(state)
    assert torch.equal(layer(x), want)
    layer.load_state_dict(state)  # twice gives the same bits
    assert torch.equal(layer(x), want)
    assert same_state(layer.state_dict(), state)


def test_loading_copies_and_assign_takes_over():
    layer, other = made("fp8_tensor"), made("fp8_tensor")
    state = {k: v.clone() for k, v in other.state_dict().items()}
    layer.load_state_dict(state)
    assert layer.weights.data.data_ptr() != state["weight"].data_ptr()
    layer.load_state_dict(state, assign=True)
    assert layer.weights.data.data_ptr() == state["weight"].data_ptr()


def test_a_broken_state_dict_changes_nothing():
    layer, x = made("fp8_tensor"), inputs(3, 64)
    want = layer(x)
    state = dict(layer.state_dict())
    state["weight_scale"] = torch.tensor([float("nan")])
    with pytest.raises(RuntimeError, match="no scale"):
        layer.load_state_dict(state)
    state["weight_scale"] = torch.ones(2)
    with pytest.raises(RuntimeError, match="wrong shape"):
        layer.load_state_dict(state)
    assert torch.equal(layer(x), want)


def test_missing_and_unknown_keys_are_told():
    layer = made("fp8_tensor")
    state = dict(layer.state_dict())
    del state["weight_scale"]
    state["weight_scael"] = torch.ones(1)
    x = inputs(2, 64)
    want = layer(x)
    with pytest.raises(RuntimeError, match=r"(?s)Missing.*weight_scale.*Unexpected.*weight_scael"):
        layer.load_state_dict(state)
    with pytest.raises(RuntimeError, match="belong together"):
        layer.load_state_dict(state, strict=False)
    assert torch.equal(layer(x), want)
    found = layer.load_state_dict({"bias": torch.zeros(48)}, strict=False)
    assert found.missing_keys == ["weight", "weight_scale"]
    assert not torch.equal(layer(x), want)


def test_a_state_dict_goes_through_a_file():
    layer = torch.nn.Sequential(made("nvfp4"))
    layer(inputs(2, 64))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    fresh = torch.nn.Sequential(
        Linear.from_float(weight(seed=4), "nvfp4", torch.ones(48), in_dtype="bf16",
                          input_global_scale=1.0)
    )  # fmt: skip
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh(inputs(2, 64)), layer(inputs(2, 64)))


@pytest.mark.parametrize("name", ["fp8_block128", "nvfp4", "int8_channel_token", "fp8_w8a16"])
@pytest.mark.parametrize(
    "cast",
    [
        lambda m: m.half(),
        lambda m: m.bfloat16(),
        lambda m: m.double(),
        lambda m: m.to(torch.float16),
        lambda m: m.to("cpu", torch.bfloat16),
        lambda m: m.cpu(),
        lambda m: m.share_memory(),
    ],
)
def test_a_cast_of_the_model_does_not_touch_quantized_tensors(name, cast):
    layer, x = made(name), inputs(3, 64)
    before, want = {k: v.clone() for k, v in layer.state_dict().items()}, layer(x)
    model = cast(torch.nn.Sequential(layer, torch.nn.LayerNorm(48)))
    assert same_state(layer.state_dict(), before)
    assert torch.equal(model[0](x), want)


def test_moving_to_meta_and_back_by_to_empty_and_load():
    layer, x = made("fp8_block128"), inputs(3, 64)
    want, state = layer(x), {k: v.clone() for k, v in layer.state_dict().items()}
    model = torch.nn.Sequential(layer).to("meta")
    assert layer.device.type == "meta"
    assert layer.bound is None
    assert {v.device.type for v in model.state_dict().values()} == {"meta"}
    model.to_empty(device="cpu")
    model[0].load_state_dict(state)
    assert torch.equal(layer(x), want)


@pytest.mark.parametrize("name", ["fp8_block128", "nvfp4", "int8_channel_token"])
def test_a_copy_and_a_pickle_are_whole_and_independent(name):
    layer, x = made(name), inputs(3, 64)
    want = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):  # noqa: S301 - ours
        assert other.bound is None
        assert other.config == layer.config
        assert same_state(other.state_dict(), layer.state_dict())
        assert torch.equal(other(x), want)
        assert other.weights.data.data_ptr() != layer.weights.data.data_ptr()
        other.load_state_dict({k: v.clone() for k, v in made(name).state_dict().items()})
    assert torch.equal(layer(x), want)


def test_a_layer_on_meta_is_loaded_by_assign():
    x, whole = inputs(3, 64), made("nvfp4")
    empty = Linear(whole.config, whole.weights.to("meta"))
    assert "no kernel" in repr(empty)
    with pytest.raises(RuntimeError, match="assign=True"):
        empty.load_state_dict(whole.state_dict())
    empty.load_state_dict(whole.state_dict(), assign=True)
    assert torch.equal(empty(x), whole(x))
    with pytest.raises(InputError, match="meta"):
        Linear.from_tensors(whole.config, whole.weights.to("meta"))


def test_the_repr_shows_scheme_kernels_and_tier():
    text = repr(made("int8_channel_token"))
    assert "in_features=64, out_features=48, scheme=int8_channel_token, bias=True" in text
    assert "kernel=torch/quantize -> torch/" in text
    assert "tier=" in text


def test_from_tensors_shares_what_it_is_given_and_changes_nothing():
    config = LinearConfig(in_features=64, out_features=48, scheme="fp8_block128")
    tensors = quantize_weight(weight(), config.scheme)
    given = {"weight": tensors.data, "weight_scale": tensors.scales}
    before = {k: v.clone() for k, v in given.items()}
    layer = Linear.from_tensors(config, given)
    assert layer.weights.data.data_ptr() == tensors.data.data_ptr()
    x = inputs(3, 64)
    y = layer(x)
    assert same_state(given, before)
    assert torch.equal(Linear.from_tensors(config, tensors)(x), y)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"weight": None}, InputError, "weight is missing"),
        ({"weight_scale": None}, InputError, "weight_scale is missing"),
        ({"weight_scale": torch.ones(2, 1)}, ShapeError, "wrong shape"),
        ({"weight_scale": torch.full((1, 1), -1.0)}, InputError, "no scale"),
        ({"weight": torch.zeros(48, 64)}, DtypeError, "fp8|float8"),
        ({"bias": torch.zeros(48)}, InputError, "bias"),
        ({"weight_scales": torch.ones(1, 1)}, ConfigError, 'did you mean "weight_scale"'),
        ({"weight": "a"}, InputError, "needs a tensor"),
    ],
)
def test_wrong_tensors_are_refused_by_name(change, error, text):
    config = LinearConfig(in_features=64, out_features=48, scheme="fp8_block128")
    tensors = quantize_weight(weight(), config.scheme)
    given = {"weight": tensors.data, "weight_scale": tensors.scales, **change}
    with pytest.raises(error, match=text):
        Linear.from_tensors(config, {k: v for k, v in given.items() if v is not None})


def test_one_element_scales_of_any_shape_are_taken():
    config = LinearConfig(in_features=64, out_features=48, scheme="fp8_tensor_static")
    tensors = quantize_weight(weight(), config.scheme)
    layer = Linear.from_tensors(
        config,
        {
            "weight": tensors.data,
            "weight_scale": tensors.scales.reshape(()),
            "input_scale": torch.tensor(0.02),
        },
    )
    assert layer.state_dict()["input_scale"].shape == (1,)
    assert close(layer, inputs(3, 64))


def test_a_scale_of_x_that_the_scheme_computes_itself_is_not_kept():
    config = LinearConfig(in_features=64, out_features=48, scheme="fp8_tensor")
    tensors = quantize_weight(weight(), config.scheme, input_scale=torch.ones(1))
    layer = Linear.from_tensors(config, tensors)
    assert set(layer.state_dict()) == {"weight", "weight_scale"}
    layer.load_state_dict(layer.state_dict())


def test_a_policy_of_the_layer_forces_and_denies():
    with pytest.raises(ForcedKernelError):
        made("fp8_tensor", policy={"force": "torch/no_such_kernel"})
    layer = made("int8_channel_token", policy={"force": "torch/linear_reference"})
    assert layer.selection.kernels[-1] == "torch/linear_reference"
    assert torch.equal(layer(inputs(3, 64)), linear(inputs(3, 64), layer.weights, layer.config))


def test_the_reference_tier_is_bit_equal_for_every_scheme():
    for name in NAMES:
        layer = made(name, policy={"force": "torch/linear_reference"})
        assert torch.equal(layer(inputs(5, 64)), linear(inputs(5, 64), layer.weights, layer.config))


def test_many_threads_bind_once_and_agree():
    layer, x = made("fp8_block128"), inputs(3, 64)
    want = copy.deepcopy(layer)(x)
    with ThreadPoolExecutor(8) as pool:
        calls = list(pool.map(lambda _: (layer(x), layer.bind()), range(32)))
    assert all(torch.equal(y, want) for y, _ in calls)
    assert len({id(bound) for _, bound in calls}) == 1


def test_warmup_binds_and_bytes_are_shown():
    layer = made("fp8_block128")
    assert layer.bound is None
    layer.warmup([1, 8])
    assert layer.bound is not None
    assert layer.bytes_held > 0
    assert layer.bound.call is not None
    assert layer.selection is layer.bound.selection


def test_calls_of_a_compiled_out_of_place_module_see_buffers_by_name():
    layer = made("fp8_block128")
    assert {"weight", "weight_scale", "bias"} <= {name for name, _ in layer.named_buffers()}
    assert list(layer.parameters()) == []


@pytest.mark.parametrize("where", ["weight", "bias", "device"])
def test_a_weight_without_values_is_refused_by_name(where):
    weight, bias, device = torch.ones(8, 16), torch.ones(8), None
    if where == "weight":
        weight = weight.to("meta")
    elif where == "bias":
        bias = bias.to("meta")
    else:
        device = "meta"
    with pytest.raises(InputError, match="meta") as caught:
        Linear.from_float(weight, "fp8_tensor", bias, device=device)
    assert caught.value.code == "device"
    assert "load the weight first" in caught.value.hint


def test_takes_its_input_by_the_keyword_of_nn_linear():
    layer = Linear.from_float(torch.randn(8, 16), "int8_channel_token")
    x = torch.randn(3, 16)
    assert torch.equal(layer(input=x), layer(x))
