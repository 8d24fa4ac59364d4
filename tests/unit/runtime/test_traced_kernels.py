"""Every kernel is an op in its plugin's namespace, bound alone and to nothing else."""

from dataclasses import replace

import pytest
import torch

from quantmux.capability.detect import HERE_CPU
from quantmux.config import LinearConfig, QuantizeConfig
from quantmux.errors import BuildError, ConfigError, ForcedKernelError
from quantmux.ops.linear.weights import quantize_weight
from quantmux.runtime.context import default_context
from quantmux.runtime.traced.kernels import kernel_op, op_name
from quantmux.runtime.traced.library import namespace_of

CONFIG = LinearConfig(in_features=64, out_features=48, scheme="fp8_channel_token")


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return quantize_weight(torch.randn(48, 64, generator=generator), CONFIG.scheme)


def test_a_linear_kernel_is_an_op_of_plain_and_of_quantized_inputs():
    op = kernel_op("torch/linear_reference", CONFIG, HERE_CPU, weights())
    x = torch.randn(5, 64).bfloat16()
    assert str(op.op) == "quantmux_torch.linear_reference.default"
    y = op(x)
    q = default_context()
    from quantmux.runtime.producers import quantize

    config = QuantizeConfig(operand=CONFIG.scheme.activation, n=64)
    q = quantize(x, config)
    assert torch.equal(op(q), y)
    assert op.op_quantized is torch.ops.quantmux_torch.linear_reference_quantized.default


def test_a_producer_kernel_is_an_op_that_gives_tensors():
    config = QuantizeConfig(operand="nvfp4", n=64)
    op = kernel_op("torch/quantize", config, HERE_CPU)
    data, scales, global_scale = op(torch.randn(5, 64).bfloat16())
    assert (data.dtype, scales.dtype) == (torch.uint8, torch.float8_e4m3fn)
    assert global_scale.shape == (1,)
    static = kernel_op("torch/quantize", QuantizeConfig(operand="nvfp4_static", n=64), HERE_CPU)
    given = torch.tensor([0.01])
    assert len(static(torch.randn(5, 64).bfloat16(), global_scale=given)) == 2


def test_an_op_refuses_the_key_of_another_kernel():
    one = kernel_op("torch/linear_reference", CONFIG, HERE_CPU, weights())
    other = kernel_op("torch/linear_emulated", CONFIG, HERE_CPU, weights())
    assert one.key != other.key
    x = torch.randn(5, 64).bfloat16()
    with pytest.raises(BuildError, match="called with the key of another kernel"):
        one.op(x, list(other.weights), other.key)


def test_two_plugins_with_one_stem_do_not_collide(shop):
    shop.producer("one/quantize")
    shop.producer("two/quantize")
    context = shop.context()
    names = [op_name(context.registry.get(name)) for name in ("one/quantize", "two/quantize")]
    assert names == ["quantmux_one::quantize", "quantmux_two::quantize"]
    assert namespace_of("one") != namespace_of("two")


def test_two_stems_that_become_one_name_are_refused(shop):
    shop.producer("three/quantize")
    spec = shop.context().registry.get("three/quantize")
    one, other = (replace(spec, id=f"three/quantize{c}fp8") for c in ".-")
    assert op_name(one) == "quantmux_three::quantize_fp8"
    with pytest.raises(BuildError, match="have one name as ops"):
        op_name(other)


def test_what_cannot_serve_is_refused_by_its_rejections():
    with pytest.raises(ForcedKernelError):
        kernel_op("torch/linear_int_mm_cpu", CONFIG, HERE_CPU, weights())


def test_a_linear_without_weights_is_refused():
    with pytest.raises(ConfigError, match="takes weights"):
        kernel_op("torch/linear_reference", CONFIG, HERE_CPU)


def test_weights_outlive_the_one_who_made_the_op():
    op = kernel_op("torch/linear_reference", CONFIG, HERE_CPU, weights())
    x = torch.randn(5, 64).bfloat16()
    want, arguments = op(x), op.arguments(x)
    del op
    call, given = arguments
    assert torch.equal(call(*given), want)
