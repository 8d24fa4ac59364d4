"""prepare and bind, on a stand-in that is as strict as the library."""

import fake_deep_gemm
import pytest
import torch
from quantmux_deepgemm.plugin import quantmux_kernels

import quantmux as qm

H200 = qm.device("h200")
SHAPES = [(1, 64, 128), (3, 192, 256), (4, 320, 384), (33, 64, 640), (5, 8, 16), (9, 200, 1376)]


def inputs(config, m, seed=0):
    """Give x quantized as the kernel declares to read it, and canonical weights."""
    generator = torch.Generator().manual_seed(seed)
    (spec,) = quantmux_kernels()
    (offer,) = spec.capability.schemes
    asked = qm.QuantizeConfig(
        operand=config.scheme.activation,
        n=config.k,
        layout=qm.Layout(scales=offer.activation.layouts[0], padded_n=config.k),
    )
    x = torch.randn(m, config.k, generator=generator, dtype=torch.float32).to(torch.bfloat16)
    codes = torch.randn(config.n, config.k, generator=generator).to(torch.float8_e4m3fn)
    grid = (-(-config.n // 128), -(-config.k // 128))
    scales = torch.rand(grid, generator=generator) + 0.5
    if config.scheme.name.startswith("fp8_block128_pow2"):
        scales = torch.exp2(torch.randint(-3, 3, grid, generator=generator).to(torch.float32))
    return qm.quantize(x, asked), qm.LinearWeights(data=codes, scales=scales)


def product(q, weights):
    """Give what the definition says, fp64 [M, N]: dequantized x times dequantized weight."""
    n, k = weights.data.shape
    wide = weights.scales.to(torch.float64).repeat_interleave(128, 0).repeat_interleave(128, 1)
    w = weights.data.to(torch.float64) * wide[:n, :k]
    return q.dequantize().to(torch.float64) @ w.T


@pytest.mark.parametrize("scheme", ["fp8_block128", "fp8_block128_pow2", "fp8_block128+exact"])
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(1, 64, 128), (3, 192, 256), (4, 320, 384), (33, 64, 640), (5, 8, 16), (9, 200, 1376)],
)
def test_gives_the_product_in_bf16(kernel, scheme, m, n, k):
    config = qm.LinearConfig(in_features=k, out_features=n, scheme=scheme)
    q, weights = inputs(config, m)
    run = kernel.bind(config, kernel.prepare(weights, config, H200), H200)
    y = run(q)
    assert torch.equal(y, product(q, weights).to(torch.bfloat16))
    assert [(m, n, k)] == fake_deep_gemm.CALLS


def test_writes_into_out_and_gives_it_back(kernel):
    config = qm.LinearConfig(in_features=128, out_features=64, scheme="fp8_block128")
    q, weights = inputs(config, 5)
    run = kernel.bind(config, kernel.prepare(weights, config, H200), H200)
    out = torch.full((5, 72), float("nan"), dtype=torch.bfloat16)[:, :64]
    assert run(q, out=out) is out
    assert torch.equal(out, run(q))


def test_launches_nothing_for_no_rows(kernel):
    config = qm.LinearConfig(in_features=128, out_features=64, scheme="fp8_block128")
    q, weights = inputs(config, 0)
    y = kernel.bind(config, kernel.prepare(weights, config, H200), H200)(q)
    assert (tuple(y.shape), y.dtype) == ((0, 64), torch.bfloat16)
    assert fake_deep_gemm.CALLS == []


@pytest.mark.parametrize(
    ("out", "error"),
    [
        (torch.empty(4, 64, dtype=torch.bfloat16), qm.ShapeError),
        (torch.empty(5, 64), qm.DtypeError),
        (torch.empty(64, 5, dtype=torch.bfloat16).T, qm.LayoutError),
        (torch.empty(5, 68, dtype=torch.bfloat16)[:, :64], qm.LayoutError),
        (torch.empty(5, 72, dtype=torch.bfloat16)[:, 4:68], qm.LayoutError),
    ],
    ids=["shape", "dtype", "columns", "row_stride", "address"],
)
def test_refuses_an_output_that_the_tma_unit_cannot_store_to(kernel, out, error):
    config = qm.LinearConfig(in_features=128, out_features=64, scheme="fp8_block128")
    q, weights = inputs(config, 5)
    with pytest.raises(error, match="out"):
        kernel.bind(config, kernel.prepare(weights, config, H200), H200)(q, out=out)


def test_preparation_shares_the_weights_and_gives_them_back(kernel):
    config = qm.LinearConfig(in_features=256, out_features=192, scheme="fp8_block128")
    _, weights = inputs(config, 1)
    prepared = kernel.prepare(weights, config, H200)
    assert prepared.weight_layout == "canonical"
    assert prepared.tensors["data"] is weights.data
    assert prepared.tensors["scales"] is weights.scales
    back = prepared.restore()
    assert torch.equal(back.data.view(torch.uint8), weights.data.view(torch.uint8))
    assert torch.equal(back.scales, weights.scales)


def test_scales_in_columns_are_copied_into_rows_once(kernel):
    config = qm.LinearConfig(in_features=256, out_features=192, scheme="fp8_block128")
    q, weights = inputs(config, 2)
    strided = qm.LinearWeights(
        data=weights.data, scales=torch.stack([weights.scales] * 2, 2)[..., 0]
    )
    prepared = kernel.prepare(strided, config, H200)
    assert prepared.tensors["scales"].is_contiguous()
    assert torch.equal(
        kernel.bind(config, prepared, H200)(q), product(q, weights).to(torch.bfloat16)
    )


def test_the_stand_in_refuses_plain_columns_of_scales(kernel):
    """What keeps the stand-in honest: the neighbouring layout is not taken."""
    config = qm.LinearConfig(in_features=256, out_features=192, scheme="fp8_block128")
    q, weights = inputs(config, 5)
    run = kernel.bind(config, kernel.prepare(weights, config, H200), H200)
    plain = q.scales.T.contiguous().T
    wrong = qm.QuantizedTensor(q.data, plain, None, q.operand, q.layout, q.logical_shape)
    with pytest.raises(RuntimeError, match="aligned to 16 bytes"):
        run(wrong)
