"""The example backend's kernel keeps the definition to the bit: an example is copied."""

import importlib.util
from pathlib import Path

import pytest
import torch

from quantmux import QuantizeConfig
from quantmux.capability.profiles import PROFILES
from quantmux.config import Operand, operand
from quantmux.ops.inputs import make_matrix
from quantmux.ops.quantize.compare import compare_quantized
from quantmux.ops.quantize.reference import quantize as reference
from quantmux.ops.quantized import empty_quantized

FILE = Path(__file__).parents[2] / "examples/acme_backend/quantmux_acme/token_quant.py"


@pytest.fixture(scope="module")
def kernel():
    spec = importlib.util.spec_from_file_location("acme_token_quant", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.KERNEL


def check(kernel, config, x):
    want = reference(x, config)
    dirty = empty_quantized(config.operand, config.layout, *x.shape, "cpu")
    for tensor in dirty.tensors():
        tensor.view(torch.uint8).fill_(0x5A)  # what is not written shows
    for out in (None, dirty):
        got = kernel.bind(config, PROFILES["cpu"])(x, out=out)
        compare_quantized(got, want).require("acme/token_quant")


KINDS = ("normal", "zeros", "equal", "one_hot", "outliers", "wide", "nan", "inf", "mixed")


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_to_the_bit_on_every_kind_of_matrix(kernel, kind, dtype):
    config = QuantizeConfig(operand="fp8_token", n=72, padded_n=80, in_dtype=dtype)
    check(kernel, config, make_matrix(kind, 9, 72, dtype, magnitude=1.0, seed=1, device="cpu"))


@pytest.mark.parametrize("magnitude", [1e-12, 1e-4, 1.0, 1e4, 1e36])
def test_agrees_to_the_bit_at_every_magnitude(kernel, magnitude):
    config = QuantizeConfig(operand="fp8_token", n=33, in_dtype="fp32")
    x = make_matrix("normal", 7, 33, "fp32", magnitude=magnitude, seed=2, device="cpu")
    check(kernel, config, x)


@pytest.mark.parametrize("m", [0, 1, 63, 64, 65, 300])
def test_agrees_to_the_bit_where_blocks_of_rows_end(kernel, m):
    # 256 KiB hold 64 rows of 1024 values
    config = QuantizeConfig(operand="fp8_token", n=1024, in_dtype="fp32", padded_m_multiple=16)
    check(
        kernel, config, make_matrix("normal", m, 1024, "fp32", magnitude=1.0, seed=3, device="cpu")
    )


@pytest.mark.parametrize(
    "changes", [{"eps": 0.5}, {"scale_ub": 1.0}, {"eps": 0.1, "scale_ub": 0.25}]
)
@pytest.mark.parametrize("kind", ["normal", "inf", "nan"])
def test_honours_the_floor_and_the_ceiling_of_amax(kernel, changes, kind):
    value: Operand = operand("fp8_token").replace(**changes)
    config = QuantizeConfig(operand=value, n=40, in_dtype="fp32")
    check(kernel, config, make_matrix(kind, 5, 40, "fp32", magnitude=1.0, seed=4, device="cpu"))
