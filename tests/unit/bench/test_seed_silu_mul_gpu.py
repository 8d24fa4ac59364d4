"""The seed's kernel, the product kernel and inductor's, compiled and on a GPU."""

from dataclasses import replace

import pytest
import torch

from quantmux.bench.seeds import silu_mul_ways as ways
from quantmux.bench.seeds.silu_mul_check import as_the_op, rounded_between
from quantmux.config import QuantizeConfig, SiluMulQuantizeConfig
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.quantized import DTYPES
from quantmux.ops.spec import Call

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


def made(n, group, dtype, m):
    config = SiluMulQuantizeConfig(operand=f"fp8_group{group}", n=n, in_dtype=dtype)
    drawn = torch.Generator(device="cuda").manual_seed(m)
    x = torch.randn(m, 2 * n, generator=drawn, device="cuda").to(DTYPES[dtype])
    return config, x


@pytest.mark.parametrize("m", [1, 33])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("group", [64, 128])
def test_the_seeds_kernel_agrees_with_the_op_in_every_call(group, dtype, m):
    config, x = made(5120, group, dtype, m)
    run = ways.seed(config)
    for size in (1.0, 3.0):  # the second call goes by the compiled handle
        x = x * size
        found = as_the_op(config, Call((x,)), run(x))
        assert found.ok, found.reason


def test_the_seeds_kernel_floors_its_scales():
    config, x = made(256, 128, "bf16", 3)
    x = x * 1e-2
    q = ways.seed(config)(x)
    codes, scales = ways.seed_in_torch(x, 128, 448.0)
    assert torch.equal(q.scales, scales)
    assert bool((scales == scales.min()).all())
    apart = (q.data.to(torch.float32) - codes.to(torch.float32)).abs()
    assert float((apart > 0).to(torch.float32).mean()) < 5e-4


def test_the_seeds_kernel_reaches_tokens_beyond_2_to_the_31_elements():
    config, x = made(14336, 128, "bf16", 8)
    many = x.repeat(9376, 1)  # 75 008 tokens of 28 672 columns
    assert many.numel() > 2**31
    q = ways.seed(config)(many)
    last = replace(q, data=q.data[-8:], scales=q.scales[-8:], logical_shape=(8, config.n))
    assert as_the_op(config, Call((x,)), last).ok


@pytest.mark.filterwarnings("ignore")  # inductor's own, of modules it imports
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_ways_of_before_are_within_their_roundings(dtype):
    config, x = made(1024, 128, dtype, 33)
    asked = QuantizeConfig(operand=config.operand, n=config.n, in_dtype=dtype)

    def plain(product):
        return quantize(product, asked)

    compiled = ways.compiled_pair(config)
    for run in (ways.torch_pair(config, plain), ways.two_kernels(config, plain), compiled):
        for rows in (33, 16):
            found = rounded_between(config, Call((x[:rows],)), run(x[:rows]))
            assert found.ok, found.reason
