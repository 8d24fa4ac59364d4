"""What a typed user of quantmux writes; `make types` has a type checker take it as it is."""

from __future__ import annotations

from typing import assert_type

import torch

import quantmux as qm

cfg = qm.LinearConfig(in_features=7168, out_features=2112, scheme="fp8_block128", in_dtype="bf16")
assert_type(cfg.scheme, qm.Scheme)
sel = qm.select(cfg, device="h200")
assert_type(sel.explain(), str)
assert_type(qm.plan([("a", cfg)], device="b200").warnings, tuple[str, ...])

own = qm.Scheme(weight="fp8_channel", activation="fp8_token", accumulation="exact")
operand = qm.Operand(element="fp8_e4m3", block=qm.Block(rows=1, cols=64), scale_rounding="pow2")
q_cfg = qm.QuantizeConfig(operand="nvfp4", n=7152, padded_n=7168, layout="swizzled_8x4")
s_cfg = qm.SiluMulQuantizeConfig(operand=operand, n=4096, layout="packed_pow2")
r_cfg = qm.InverseRopeQuantizeConfig(heads=8, head_dim=512, rope_dim=64, groups=1)
capability = qm.Capability(arch="90a", relayouts=(("row_major", "col_major"),), tags={"cuda_graph"})
several = qm.Capability(arch=("90a", "100f"), relayouts=(("*", "*"),))


def run(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Use the functions and the module."""
    q = qm.quantize(x, q_cfg)
    assert_type(q, qm.QuantizedTensor)
    assert_type(q.dequantize(), torch.Tensor)
    layer = qm.Linear.from_float(weight, scheme="nvfp4", bias=None)
    assert_type(layer.selection, qm.Selection)
    with qm.policy(order=["triton", "torch"], deny=["cutlass/*"]):
        y = layer(x)
    return torch.as_tensor(y)
