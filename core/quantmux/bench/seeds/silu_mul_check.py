"""Whether ways of silu·mul + quantization agree: by the op, or with a product rounded between.

A pair of kernels rounds the product to 16 bit before it looks for amax, and torch rounds silu as
well. Neither is the op's definition, so scales and codes are judged by how far those two roundings
can move them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.bench.gate import Checked
from quantmux.ops.agreement import agreement
from quantmux.ops.numerics import block_amax, expand_blocks, scale_from_amax
from quantmux.ops.quantized import DTYPES, QuantizedTensor
from quantmux.ops.silu_mul_quantize.reference import silu_mul

if TYPE_CHECKING:
    from quantmux.config import SiluMulQuantizeConfig
    from quantmux.ops.spec import Call

_ROUNDINGS: Final = 2
"""Of silu, and of the product."""

_SLACK: Final = 1.0 + 2.0**-6
_HALF_STEP: Final = 2.0**-4
"""Of a normal e4m3 number, relative."""

_HALF_LEAST: Final = 2.0**-10
"""Half the least subnormal e4m3 number."""


def as_the_op(config: SiluMulQuantizeConfig, call: Call, q: Any) -> Checked:
    """Compare with the definition: scales within 2^-20, at most 0.05 % of codes one step off."""
    found = agreement(config, call, q)
    return Checked(found.ok, "all rows", found.reason)


def rounded_between(config: SiluMulQuantizeConfig, call: Call, q: Any) -> Checked:
    """Compare with the fp32 product, allowing for two roundings to 16 bit before the quantization.

    Args:
        config: Of the fused op; its scales are row-major.
        call: (x,), x [M, 2n].
        q: What a way gave.
    """
    if not isinstance(q, QuantizedTensor):
        return Checked(False, reason=f"needs a QuantizedTensor, found {type(q).__name__}")
    q.check()
    if (q.operand, q.layout) != (config.operand, config.layout):
        return Checked(False, reason=f"found {q.operand.name} {q.layout}")
    values = silu_mul(call.args[0])
    # of half a unit in the last place each, relative
    loose = _SLACK * _ROUNDINGS * torch.finfo(DTYPES[config.in_dtype]).eps / 2
    block = config.operand.block
    want = scale_from_amax(block_amax(values, block), config.operand)
    apart = float((q.scales / want - 1.0).abs().max())
    if not apart <= loose:
        return Checked(False, reason=f"a scale is {apart:.3g} off, at most {loose:.3g}")
    scales = expand_blocks(q.scales, block, *values.shape)
    distance = (q.data.to(torch.float32) * scales - values).abs()
    allowed = (_HALF_STEP * (1.0 + loose) + loose) * values.abs() + _HALF_LEAST * scales
    bad = ~(distance <= _SLACK * allowed)
    if bool(bad.any()):
        return Checked(False, reason=f"{int(bad.sum())} codes are further off than roundings go")
    return Checked(True, "all rows, with two roundings to 16 bit before")
