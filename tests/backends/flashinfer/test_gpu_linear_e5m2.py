"""bmm_fp8 of cuBLASLt with one operand in e5m2, which no preset scheme has."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

import quantmux as qm
from quantmux.config import LinearConfig, Scheme
from quantmux.config.operands import operand
from quantmux.ops.agreement import agreement
from quantmux.ops.linear.spec import make_inputs
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.spec import Call, Case
from quantmux.runtime.binding import bind

KERNEL = "flashinfer/linear_fp8_bmm_cublas"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0),
        reason="needs a Hopper GPU",
    ),
    pytest.mark.skipif(find_spec("flashinfer") is None, reason="flashinfer is not installed"),
]


@pytest.mark.parametrize("out_dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("formats", [("fp8_e4m3", "fp8_e5m2"), ("fp8_e5m2", "fp8_e4m3")])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 64, 128), (17, 200, 330), (129, 576, 1280)])
def test_e5m2_by_e4m3_agrees_with_the_definition(
    m: int, n: int, k: int, formats: tuple[str, str], out_dtype: str
) -> None:
    weight, activation = (operand("fp8_tensor").replace(element=element) for element in formats)
    scheme = Scheme(weight=weight, activation=activation)
    config = LinearConfig(
        in_features=k,
        out_features=n,
        scheme=scheme,
        out_dtype=out_dtype,  # type: ignore[arg-type]  # a name of a format, from the list above
    )
    x, weights = make_inputs(Case(config, m), "cuda", seed=7).args
    call = bind(qm.select(config, torch.device("cuda:0"), m=m, force=KERNEL), weights, wait=True)
    assert call.pipeline_for(m).main.id == KERNEL, call.events
    reads = call.pipeline_for(m).steps[0].config
    found = agreement(config, Call((quantize(x, reads), weights)), call(x))
    assert found.ok, found.reason
