"""The linears that run on the host, against the definition, and what preparing them does."""

from dataclasses import replace

import pytest
import torch

from quantmux.capability.profiles import CPU, PROFILES
from quantmux.config import LinearConfig, QuantizeConfig
from quantmux.config.layouts import layouts_for
from quantmux.errors import DtypeError, InputError, LayoutError, ShapeError
from quantmux.ops.linear.reference import linear, linear_exact
from quantmux.ops.linear.tolerance import compare, linear_magnitude
from quantmux.ops.linear.weights import quantize_weight
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.quantized import DTYPES
from quantmux.ops.spec import op_spec
from quantmux_torch.linear_emulated import multiplies_in_fp32

HOST = ("linear_reference", "linear_emulated", "linear_scaled_mm_cpu", "linear_int_mm_cpu")


def config_of(scheme: str, n: int = 48, k: int = 256, **changes) -> LinearConfig:
    return LinearConfig(in_features=k, out_features=n, scheme=scheme, **changes)


def weights_of(config: LinearConfig, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(config.n, config.k, generator=generator)
    bias = torch.randn(config.n, generator=generator) if config.bias else None
    return quantize_weight(
        weight,
        config.scheme,
        bias=bias,
        input_scale=torch.tensor([0.01]),
        input_global_scale=torch.tensor([0.002]) if config.scheme.weight.is_nvfp4 else None,
    )


def bound(kernel, config, weights, device=CPU):
    loaded = kernel.loaded
    return loaded.bind(config, loaded.prepare(weights, config, device), device)


@pytest.mark.parametrize("name", HOST)
def test_every_small_case_it_serves_is_within_the_tolerance_of_the_op(name, kernel):
    spec, one = op_spec("linear"), kernel(name)
    schemes, wrong = set(), []
    for seed, case in enumerate(c for c in spec.cases() if c.is_small):
        config = case.config
        if not one.verdict(config, CPU).is_eligible:
            continue
        schemes.add(config.scheme.weight.element)
        x, weights = spec.inputs(case, "cpu", seed).args
        given = one.x_of(x, weights, config, CPU)
        run = bound(one, config, weights)
        y = run(given)
        assert y.shape == (case.m, config.n), case
        assert y.dtype == DTYPES[config.out_dtype], case
        assert y.is_contiguous(), case
        exact = linear_exact(given, weights, config)
        magnitude = linear_magnitude(given, weights, config)
        if not compare(y, exact, config=config, magnitude=magnitude).ok:
            wrong.append(str(case))
        out = torch.full_like(y, torch.nan)
        assert run(given, out=out) is out, case
        if not torch.equal(out.nan_to_num(7.0), y.nan_to_num(7.0)):
            wrong.append(f"out= of {case}")
    assert schemes, "no case was served"
    assert not wrong, wrong[:10]


@pytest.mark.parametrize("name", ["linear_scaled_mm_cpu", "linear_emulated"])
def test_fast_accumulation_on_the_host_meets_the_exact_tolerance(name, kernel):
    scheme = "fp8_channel_token"
    config = config_of(scheme, k=4096, out_dtype="fp32", in_dtype="fp32")
    weights, x = weights_of(config), torch.randn(9, 4096) * 100
    given = kernel(name).x_of(x, weights, config, CPU)
    y = bound(kernel(name), config, weights)(given)
    exact = config.replace(scheme=scheme + "+exact")
    compare(
        y,
        linear_exact(given, weights, config),
        config=exact,
        magnitude=linear_magnitude(given, weights, config),
    ).require(name)


@pytest.mark.parametrize(
    ("scheme", "operand"),
    [
        ("fp8_block128", "fp8_group128"),
        ("fp8_block128_pow2", "fp8_group128_pow2"),
        ("nvfp4_dynamic", "nvfp4"),
    ],
)
@pytest.mark.parametrize("name", ["linear_reference", "linear_emulated"])
def test_any_layout_and_padding_of_x_gives_the_same_output(name, scheme, operand, kernel):
    config = config_of(scheme, n=33, k=200)
    weights = weights_of(config)
    x = torch.randn(5, 200, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    run = bound(kernel(name), config, weights)
    plainest = QuantizeConfig(operand=operand, n=200)
    want = run(quantize(x, plainest))
    for layout in layouts_for(plainest.operand):
        for padded_n, multiple in ((256, 1), (384, 4)):
            asked = QuantizeConfig(
                operand=operand,
                n=200,
                layout=layout,
                padded_n=padded_n,
                padded_m_multiple=multiple,
            )
            assert torch.equal(run(quantize(x, asked)), want), (layout, padded_n, multiple)


def test_the_emulation_keeps_fp32_when_the_process_allows_less(kernel):
    config = config_of("fp8_w8a16", n=64, k=2048, in_dtype="fp32", out_dtype="fp32")
    weights, x = weights_of(config), torch.randn(16, 2048)
    run = bound(kernel("linear_emulated"), config, weights)
    exact = linear_exact(x, weights, config)
    magnitude = linear_magnitude(x, weights, config)

    def check(what: str) -> None:
        compare(run(x), exact, config=config, magnitude=magnitude).require(what)

    assert multiplies_in_fp32("cpu")
    check("default")
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        assert not multiplies_in_fp32("cpu")
        check("bf16 allowed for fp32")
    finally:
        matmul.fp32_precision = before
    with torch.autocast("cpu", torch.bfloat16):
        assert not multiplies_in_fp32("cpu")
        check("autocast")


PREPARED = [
    ("linear_reference", "fp8_block128"),
    ("linear_reference", "nvfp4"),
    ("linear_emulated", "fp8_block128"),
    ("linear_emulated", "nvfp4"),
    ("linear_scaled_mm_cpu", "fp8_tensor_token"),
    ("linear_scaled_mm_tensor", "fp8_tensor_static"),
    ("linear_scaled_mm_row", "fp8_channel_token"),
    ("linear_scaled_mm_row", "fp8_tensor_token"),
    ("linear_scaled_mm_block", "fp8_block128"),
    ("linear_int_mm", "int8_channel_token"),
    ("linear_int_mm_cpu", "int8_channel_token"),
]


@pytest.mark.parametrize(("name", "scheme"), PREPARED)
@pytest.mark.parametrize(("n", "k"), [(33, 200), (48, 1368), (256, 512)])
def test_preparing_is_pure_idempotent_and_undone_bit_for_bit(name, scheme, n, k, kernel, bits):
    config = config_of(scheme, n=n, k=k, bias=True)
    weights = weights_of(config)
    before = {key: bits(t) for key, t in weights.named().items()}
    loaded = kernel(name).loaded
    first = loaded.prepare(weights, config, PROFILES["h200"])
    second = loaded.prepare(weights, config, PROFILES["h200"])
    assert (first.n, first.k) == (n, k)
    assert first.weight_layout == kernel(name).spec.capability.weight_layout
    assert first.tensors.keys() == second.tensors.keys()
    for key, tensor in first.tensors.items():
        assert torch.equal(bits(tensor), bits(second.tensors[key])), key
    for key, tensor in weights.named().items():
        assert torch.equal(bits(tensor), before[key]), key
    if name == "linear_emulated":
        assert first.restore is None
        return
    restored = first.restore().named()
    assert restored.keys() == weights.named().keys()
    for key, tensor in weights.named().items():
        assert restored[key].dtype == tensor.dtype, key
        assert torch.equal(bits(restored[key]), before[key]), key


@pytest.mark.parametrize(("name", "scheme"), PREPARED)
def test_tensors_that_need_no_change_are_shared(name, scheme, kernel):
    config = config_of(scheme, n=256, k=512)
    weights = weights_of(config)
    prepared = kernel(name).loaded.prepare(weights, config, CPU)
    if name == "linear_emulated":
        assert prepared.bytes_held >= 4 * 256 * 512
        return
    assert prepared.tensors["data"].data_ptr() == weights.data.data_ptr()
    held = sum(t.nbytes for t in weights.named().values())
    # no more than one small scale tensor was made beside those of the checkpoint
    assert prepared.bytes_held <= held + 4 * 256


def test_padding_of_weights_scales_and_bias_is_zero(kernel):
    config = config_of("fp8_channel_token", n=33, k=200, bias=True)
    weights = replace(weights_of(config), bias=torch.ones(33, dtype=torch.bfloat16))
    prepared = kernel("linear_scaled_mm_row").loaded.prepare(weights, config, PROFILES["h200"])
    data, scales = prepared.tensors["data"], prepared.tensors["scale_b"]
    assert data.shape == (48, 208)
    assert data.view(torch.uint8)[33:].eq(0).all()
    assert data.view(torch.uint8)[:, 200:].eq(0).all()
    assert torch.equal(data[:33, :200].to(torch.float32), weights.data.to(torch.float32))
    assert scales.shape == (48, 1)
    assert scales[33:].eq(0).all()
    assert prepared.tensors["epilogue_bias"].dtype == torch.float32
    assert prepared.tensors["epilogue_bias"].tolist() == [1.0] * 33 + [0.0] * 15
    assert dict(prepared.facts) == {"padded_n": 48, "padded_k": 208}


def test_a_bias_that_the_output_dtype_cannot_hold_stays_fp32(kernel):
    config = config_of("fp8_tensor", bias=True)
    weights = weights_of(config)
    loaded = kernel("linear_scaled_mm_tensor").loaded
    exact = replace(weights, bias=torch.full((48,), 1.5))
    wide = replace(weights, bias=torch.full((48,), 1.001))
    for given, dtype in ((exact, torch.bfloat16), (wide, torch.float32)):
        prepared = loaded.prepare(given, config, PROFILES["h200"])
        assert prepared.tensors["epilogue_bias"].dtype == dtype
        assert torch.equal(prepared.tensors["epilogue_bias"].to(torch.float32), given.bias)
        assert prepared.tensors["bias"].dtype == torch.float32


def test_block_scales_are_stored_in_rows_of_a_multiple_of_4(kernel):
    config = config_of("fp8_block128", n=300, k=600)
    weights = weights_of(config)
    prepared = kernel("linear_scaled_mm_block").loaded.prepare(weights, config, PROFILES["h200"])
    scales = prepared.tensors["scale_b"]
    assert prepared.tensors["data"].shape == (304, 640)
    assert scales.shape == (3, 8)
    assert torch.equal(scales[:, :5], weights.scales)
    assert scales[:, 5:].eq(0).all()


HOST_SCHEMES = [
    ("linear_reference", "fp8_block128"),
    ("linear_emulated", "fp8_w8a16"),
    ("linear_scaled_mm_cpu", "fp8_tensor"),
    ("linear_scaled_mm_cpu", "fp8_channel_token"),
    ("linear_int_mm_cpu", "int8_channel_token"),
]


@pytest.mark.parametrize(("name", "scheme"), HOST_SCHEMES)
def test_no_rows_give_an_empty_output_and_touch_no_bias(name, scheme, kernel):
    config = config_of(scheme, bias=True)
    weights = weights_of(config)
    x = torch.empty(0, 256, dtype=torch.bfloat16)
    given = kernel(name).x_of(x, weights, config, CPU)
    run = bound(kernel(name), config, weights)
    assert run(given).shape == (0, 48)
    out = torch.empty(0, 48, dtype=torch.bfloat16)
    assert run(given, out=out) is out


@pytest.mark.parametrize(("name", "scheme"), HOST_SCHEMES)
def test_an_out_of_another_shape_or_dtype_is_refused(name, scheme, kernel):
    config = config_of(scheme)
    weights = weights_of(config)
    given = kernel(name).x_of(torch.ones(3, 256, dtype=torch.bfloat16), weights, config, CPU)
    run = bound(kernel(name), config, weights)
    with pytest.raises(ShapeError, match="out has the wrong shape"):
        run(given, out=torch.empty(3, 47, dtype=torch.bfloat16))
    with pytest.raises(DtypeError, match="out needs"):
        run(given, out=torch.empty(3, 48))


@pytest.mark.parametrize("weight", ["int8_channel", "int8_tensor"])
@pytest.mark.parametrize("activation", ["int8_token", "int8_tensor", "int8_tensor_static"])
@pytest.mark.parametrize("bias", [False, True])
def test_int8_multiplies_every_pair_of_granularities(weight, activation, bias, kernel):
    config = LinearConfig(
        in_features=1000,
        out_features=37,
        scheme={"weight": weight, "activation": activation},
        bias=bias,
        out_dtype="fp32",
    )
    weights = weights_of(config)
    one = kernel("linear_int_mm_cpu")
    assert one.verdict(config, CPU).tier == "native"
    x = torch.randn(7, 1000, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
    given = one.x_of(x, weights, config, CPU)
    compare(
        bound(one, config, weights)(given),
        linear_exact(given, weights, config),
        config=config,
        magnitude=linear_magnitude(given, weights, config),
    ).require("int8")


def test_int8_sums_at_the_edge_of_int32_stay_exact(kernel):
    k = 133144
    config = config_of("int8_channel_token", n=8, k=k, out_dtype="fp32", in_dtype="fp32")
    weights = weights_of(config)
    weights = replace(weights, data=torch.full_like(weights.data, -127))
    x = torch.ones(2, k)
    given = kernel("linear_int_mm_cpu").x_of(x, weights, config, CPU)
    assert given.data.eq(127).all()
    y = bound(kernel("linear_int_mm_cpu"), config, weights)(given)
    want = -(127.0**2) * k * given.scales.double() * weights.scales.double().T
    assert ((y.double() - want) / want).abs().max() < 4 * 2.0**-24


@pytest.mark.parametrize("name", ["linear_int_mm", "linear_int_mm_small_m"])
@pytest.mark.parametrize("m", [1, 16, 17, 40])
def test_the_gpu_form_of_int8_gives_the_same_bits_on_the_host(name, m, kernel):
    config = config_of("int8_channel_token", n=33, k=200, bias=True)
    weights = weights_of(config)
    x = torch.randn(m, 200, generator=torch.Generator().manual_seed(3)).to(torch.bfloat16)
    gpu, host = kernel(name), kernel("linear_int_mm_cpu")
    padded = gpu.x_of(x, weights, config, PROFILES["h200"])
    assert padded.data.shape == (-(-m // 32) * 32 if name.endswith("small_m") else m, 208)
    y = bound(gpu, config, weights, PROFILES["h200"])(padded)
    want = bound(host, config, weights)(host.x_of(x, weights, config, CPU))
    assert torch.equal(y, want)


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("linear_scaled_mm_tensor", "fp8_tensor"),
        ("linear_scaled_mm_row_bias", "fp8_channel_token"),
        ("linear_scaled_mm_row_bias", "fp8_tensor_token"),
    ],
)
@pytest.mark.parametrize("bias_dtype", [None, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("n", "k"), [(48, 256), (33, 200)])
def test_the_gpu_form_of_scaled_mm_agrees_on_the_host(name, scheme, bias_dtype, n, k, kernel):
    """torch's host kernels take the same call, so everything but the GPU's own GEMM is run."""
    config = config_of(scheme, n=n, k=k, bias=bias_dtype is not None)
    weights = weights_of(config)
    if bias_dtype is not None:
        weights = replace(weights, bias=weights.bias.to(bias_dtype))
    x = torch.randn(5, k, generator=torch.Generator().manual_seed(4)).to(torch.bfloat16)
    one = kernel(name)
    given = one.x_of(x, weights, config, PROFILES["h200"])
    assert given.data.shape == (5, -(-k // 16) * 16)
    run = bound(one, config, weights, PROFILES["h200"])
    y = run(given)
    assert y.shape == (5, n)
    assert y.stride() == (-(-n // 16) * 16, 1)
    exact = linear_exact(given, weights, config)
    magnitude = linear_magnitude(given, weights, config)
    compare(y, exact, config=config, magnitude=magnitude).require(name)
    assert run(quantize(x[:0], one_config(given, k))).shape == (0, n)


def one_config(q, k: int) -> QuantizeConfig:
    return QuantizeConfig(operand=q.operand, n=k, layout=q.layout)


def test_scaled_mm_writes_into_rows_that_lie_16_apart_and_no_others(kernel):
    config = config_of("fp8_channel_token", n=33, k=200)
    weights = weights_of(config)
    one = kernel("linear_scaled_mm_row")
    x = torch.randn(5, 200, generator=torch.Generator().manual_seed(5)).to(torch.bfloat16)
    given = one.x_of(x, weights, config, PROFILES["h200"])
    run = bound(one, config, weights, PROFILES["h200"])
    storage = torch.full((5, 48), torch.nan, dtype=torch.bfloat16)
    out = storage[:, :33]
    with pytest.raises(LayoutError, match="wrong strides"):
        run(given, out=torch.empty(5, 33, dtype=torch.bfloat16))
    with pytest.raises(LayoutError, match="ends before the gap"):
        run(given, out=storage.view(-1)[10:].as_strided((5, 33), (48, 1)))
    y = run(given, out=out)
    assert y.data_ptr() == storage.data_ptr()
    assert torch.equal(out, run(given))


def test_the_bytes_behind_k_are_never_read_as_numbers(kernel):
    """Codes that stand beyond K would be multiplied by the zero padding of the weight only."""
    config = config_of("fp8_channel_token", n=48, k=200)
    weights = weights_of(config)
    one = kernel("linear_scaled_mm_row")
    x = torch.randn(5, 200, generator=torch.Generator().manual_seed(6)).to(torch.bfloat16)
    given = one.x_of(x, weights, config, PROFILES["h200"])
    assert given.data.view(torch.uint8)[:, 200:].eq(0).all()
    run = bound(one, config, weights, PROFILES["h200"])
    clean = run(given)
    given.data.view(torch.uint8)[:, 200:] = 0x3F
    assert torch.equal(run(given), clean)


def test_a_row_whose_scale_is_nan_spoils_itself_only(kernel):
    config = config_of("fp8_channel_token")
    weights = weights_of(config)
    x = torch.randn(5, 256, generator=torch.Generator().manual_seed(7)).to(torch.bfloat16)
    x[2, 7] = torch.inf
    for name in ("linear_reference", "linear_emulated", "linear_scaled_mm_cpu"):
        given = kernel(name).x_of(x, weights, config, CPU)
        y = bound(kernel(name), config, weights)(given)
        assert y[2].isnan().all(), name
        assert y[[0, 1, 3, 4]].isfinite().all(), name


def test_the_reference_kernel_is_the_reference(kernel):
    config = config_of("nvfp4_dynamic", n=33, k=200, bias=True)
    weights = weights_of(config)
    x = torch.randn(5, 200, generator=torch.Generator().manual_seed(8)).to(torch.bfloat16)
    run = bound(kernel("linear_reference"), config, weights)
    assert torch.equal(run(x), linear(x, weights, config))


def test_x_on_another_kind_of_device_is_refused(kernel):
    config = config_of("fp8_w8a16")
    weights = weights_of(config)
    for name in ("linear_reference", "linear_emulated"):
        run = bound(kernel(name), config, weights, PROFILES["h200"])
        with pytest.raises(InputError, match="bound for cuda"):
            run(torch.ones(2, 256, dtype=torch.bfloat16))


def test_warmup_without_a_gpu_does_nothing(kernel):
    config = config_of("fp8_channel_token")
    for name in ("linear_scaled_mm_row", "linear_emulated", "linear_reference", "quantize"):
        assert kernel(name).loaded.warmup(config, (1, 16)) is None


@pytest.mark.parametrize(
    ("name", "scheme", "rows"),
    [
        ("linear_scaled_mm_tensor", "fp8_tensor_static", [1, 17]),
        ("linear_scaled_mm_row", "fp8_channel_token", [1, 17]),
        ("linear_int_mm", "int8_channel_token", [32, 17]),
    ],
)
def test_warmup_calls_the_gemm_once_for_every_m(name, scheme, rows, kernel, monkeypatch):
    config = config_of(scheme, n=33, k=200, bias=True)
    seen = []
    call = "_int_mm" if scheme.startswith("int8") else "_scaled_mm"
    gemm = getattr(torch, call)

    def spy(a, b, **rest):
        seen.append(a.shape[0])
        return gemm(a, b, **rest)

    monkeypatch.setattr(torch, call, spy)
    here = (torch.device("cpu"), PROFILES["h200"])
    monkeypatch.setattr("quantmux_torch.dry_run.current_gpu", lambda: here)
    kernel(name).loaded.warmup(config, [1, 17])
    assert seen == rows


def strict_block_gemm(a, b, scale_a, recipe_a, scale_b, recipe_b, bias=None, output_dtype=None):
    """torch's demands on 1x128 by 128x128 scales on sm90, then the product in fp64."""
    (m, k), n = a.shape, b.shape[1]
    assert (recipe_a.name, recipe_b.name) == ("BlockWise1x128", "BlockWise128x128")
    assert m % 4 == 0
    assert k % 128 == 0
    assert n % 16 == 0
    assert a.stride() == (k, 1)
    assert b.stride() == (1, k)
    rows = -(-k // 128 // 4) * 4
    assert scale_a.shape == (m, k // 128)
    assert scale_a.stride() == (1, m)
    assert scale_b.shape == (rows, -(-n // 128))
    assert scale_b.stride() == (1, rows)
    assert bias is None or (bias.dtype == output_dtype and bias.shape == (n,))
    wide_a = a.double() * scale_a.double().repeat_interleave(128, 1)
    scales = scale_b[: k // 128].double().repeat_interleave(128, 0).repeat_interleave(128, 1)
    y = wide_a @ (b.double() * scales[:, :n])
    return (y if bias is None else y + bias.double()).to(output_dtype)


@pytest.mark.parametrize("scheme", ["fp8_block128", "fp8_block128_pow2"])
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 33, 200), (5, 300, 600), (8, 256, 128), (3, 144, 896)]
)
@pytest.mark.parametrize("bias_dtype", [None, torch.bfloat16, torch.float32])
def test_the_block_gemm_is_called_with_the_shapes_and_strides_that_torch_wants(
    scheme, m, n, k, bias_dtype, kernel, monkeypatch
):
    monkeypatch.setattr(torch.nn.functional, "scaled_mm", strict_block_gemm)
    config = config_of(scheme, n=n, k=k, bias=bias_dtype is not None)
    weights = weights_of(config)
    if bias_dtype is not None:
        weights = replace(weights, bias=weights.bias.to(bias_dtype))
    one = kernel("linear_scaled_mm_block")
    x = torch.randn(m, k, generator=torch.Generator().manual_seed(9)).to(torch.bfloat16)
    given = one.x_of(x, weights, config, PROFILES["h200"])
    run = bound(one, config, weights, PROFILES["h200"])
    y = run(given)
    assert y.shape == (m, n)
    assert m == 1 or y.stride() == (-(-n // 16) * 16, 1)
    compare(
        y,
        linear_exact(given, weights, config),
        config=config,
        magnitude=linear_magnitude(given, weights, config),
    ).require("block")
    out = torch.full((m, n), torch.nan, dtype=torch.bfloat16)
    assert run(given, out=out) is out
    assert torch.equal(out, y)
    assert run(quantize(x[:0], one_config(given, k))).shape == (0, n)
