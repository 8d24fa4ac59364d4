import subprocess
import sys

import pytest
import torch

from quantmux.config import (
    LinearConfig,
    QuantizeConfig,
    RelayoutConfig,
    SiluMulQuantizeConfig,
    operand,
)
from quantmux.config.policy_context import use_policy
from quantmux.errors import ConfigError, ForcedKernelError, InputError, ShapeError
from quantmux.ops.quantize.reference import quantize as reference
from quantmux.runtime.events import stats
from quantmux.runtime.producers import quantize, relayout, silu_mul_quantize

TOKEN = QuantizeConfig(operand="fp8_token", n=32)


def same(a, b):
    return all(
        torch.equal(x.view(torch.uint8), y.view(torch.uint8))
        for x, y in zip(a.tensors(), b.tensors(), strict=True)
    )


@pytest.fixture
def two(shop):
    shop.producer("one/quantize")
    shop.producer("two/quantize")
    return shop


def test_quantizes_and_binds_once(two):
    context, x = two.context(order=("one", "two")), two.x(5)
    assert same(quantize(x, TOKEN, context=context), reference(x, TOKEN))
    quantize(x, TOKEN, context=context)
    assert two.module.one_quantize.fault.calls["bind"] == 1
    assert two.module.two_quantize.fault.calls["bind"] == 0


def test_backend_forces_and_the_policy_of_a_block_is_heard(two):
    context, x = two.context(order=("one", "two")), two.x(5)
    quantize(x, TOKEN, backend="two", context=context)
    assert two.module.two_quantize.fault.calls["run"] == 1
    with use_policy(order=["two"]):
        quantize(x, TOKEN, context=context)
    assert two.module.two_quantize.fault.calls["run"] == 2
    quantize(x, TOKEN, context=context)
    assert two.module.one_quantize.fault.calls["run"] == 1


def test_a_forced_backend_that_cannot_serve_raises_with_rejections(two):
    context = two.context()
    config = QuantizeConfig(operand="fp8_token", n=32, padded_n=48)
    with pytest.raises(ForcedKernelError) as caught:
        quantize(two.x(5), config, backend="two", context=context)
    assert caught.value.rejected["two/quantize"][0].code == "padded_n"


def test_writes_into_out(two):
    context, x = two.context(), two.x(5)
    out = reference(torch.zeros_like(x), TOKEN)
    assert quantize(x, TOKEN, out=out, context=context) is out
    assert same(out, reference(x, TOKEN))


def test_the_caller_s_mistakes_are_typed_and_replace_nothing(two, silu_config):
    two.producer("one/silu", op="silu_mul_quantize")
    context = two.context()
    with pytest.raises(ShapeError):
        quantize(two.x(5)[:, :31], TOKEN, context=context)
    with pytest.raises(InputError, match="scale"):
        quantize(two.x(5), TOKEN, scale=torch.ones(1), context=context)
    with pytest.raises(InputError, match="list"):
        quantize([1.0], TOKEN, context=context)
    with pytest.raises(ShapeError):
        silu_mul_quantize(two.x(5), silu_config, context=context)
    assert stats()["events"] == []


def test_relayout_keeps_what_lies_right_and_moves_the_rest():
    x = torch.randn(5, 256).to(torch.bfloat16)
    config = QuantizeConfig(operand="fp8_group128", n=256)
    q = quantize(x, config)
    assert relayout(q, "row_major") is q
    moved = relayout(q, "col_major_aligned4")
    assert moved.layout.scales == "col_major_aligned4"
    assert moved.scales.stride() == (1, 8)
    assert torch.equal(moved.dequantize(), q.dequantize())
    target = q.layout.replace(padded_n=384)
    assert relayout(q, target).data.shape == (5, 384)
    assert RelayoutConfig(operand=operand("fp8_group128"), n=256, source=q.layout, target=target)


def test_every_preset_operand_is_quantized_by_the_process_s_own_context():
    x = torch.randn(3, 64).to(torch.bfloat16)
    for name in ("fp8_tensor", "fp8_token", "fp8_group64", "int8_token", "nvfp4"):
        config = QuantizeConfig(operand=name, n=64)
        assert same(quantize(x, config), reference(x, config))


def test_the_torch_free_part_of_runtime_imports_no_torch():
    code = (
        "import sys, quantmux.runtime.context, quantmux.runtime.events, "
        "quantmux.runtime.quarantine; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_config_of_another_op_is_refused_and_harms_no_kernel(two):
    context, x = two.context(order=("one", "two")), two.x(5)
    linear = LinearConfig(in_features=32, out_features=32, scheme="fp8_channel_token")
    gated = SiluMulQuantizeConfig(operand="fp8_token", n=16)
    for function, config in ((quantize, linear), (quantize, gated), (silu_mul_quantize, TOKEN)):
        with pytest.raises(ConfigError, match=f"found {type(config).__name__}"):
            function(x, config, context=context)
    assert context.quarantine.entries() == ()
