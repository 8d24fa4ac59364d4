"""The gate: who disagrees with the reference on the very case is not timed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.dispatch.reference_config import reference_config
from quantmux.ops.agreement import agreement
from quantmux.ops.linear.reference import quantize_input
from quantmux.ops.quantized import QuantizedTensor
from quantmux.ops.spec import Call, op_spec

if TYPE_CHECKING:
    from quantmux.bench.contenders import Contender
    from quantmux.bench.materials import Materials
    from quantmux.config import LayerConfig, LinearConfig
    from quantmux.dispatch.pipeline import Pipeline

_CUDA_FLOPS: Final = 1e12
"""fp64 operations of one product that a GPU is asked for: some 20 ms on an H200."""

_HOST_FLOPS: Final = 4e8


@dataclass(frozen=True, slots=True)
class Checked:
    """What comparing one contender with the reference found.

    Attributes:
        ok: It may be timed.
        how: Which rows were compared.
        reason: Why it may not, "" if it may.
    """

    ok: bool
    how: str = ""
    reason: str = ""


def check_pipeline(contender: Contender, inputs: Call, materials: Materials) -> Checked:
    """Run a pipeline once and compare its result with the reference.

    Args:
        contender: Not yet called.
        inputs: Arguments of its first call.
        materials: Weights of the config.
    """
    pipeline = contender.pipeline
    if pipeline is None:
        return Checked(False, reason="it has no pipeline to be judged by")
    with_stale_memory(materials.config, m_of(inputs), materials.device.torch_name)
    return compare_pipeline(pipeline, inputs, materials, contender.calls[0]())


def compare_pipeline(
    pipeline: Pipeline, inputs: Call, materials: Materials, result: Any
) -> Checked:
    """Compare a result of a pipeline with the reference of what its inputs hold now."""
    config = materials.config
    if config.op != "linear":
        capability = pipeline.main.capability
        loose, tags = capability.rel_tolerance, capability.tags
        found = agreement(config, inputs, result, rel_tolerance=loose, tags=tags)
        return Checked(found.ok, "all rows", found.reason)
    asked, tolerance = reference_config(config, pipeline), pipeline.rel_tolerance
    return check_linear(asked, inputs.args[0], materials, result, tolerance=tolerance)


def check_linear(
    config: LinearConfig,
    x: torch.Tensor,
    materials: Materials,
    result: Any,
    *,
    tolerance: float | None,
) -> Checked:
    """Compare y with the reference of a config: all rows, or as many as take a moment in fp64.

    Args:
        config: What the kernel computes.
        x: Plain input [M, K].
        materials: Its weights.
        result: y [M, N].
        tolerance: Bound on the relative Frobenius error where it is looser than the op's.
    """
    weights, m = materials.weights, x.shape[0]
    if isinstance(result, torch.Tensor) and not bool(torch.isfinite(result).all()):
        return Checked(False, reason="y holds NaN or Inf, though x and the weights do not")
    limit = _CUDA_FLOPS if x.is_cuda else _HOST_FLOPS
    some = max(1, math.floor(limit / (2 * config.n * config.k)))
    if some >= m:
        found = agreement(config, Call((x, weights)), result, rel_tolerance=tolerance)
        return Checked(found.ok, "all rows", found.reason)
    rows = torch.linspace(0, m - 1, some, device=x.device).long()
    part: Any = x[rows]
    if config.scheme.activation is not None:
        # the scales of x may depend on all its rows: quantized whole, then cut
        q = quantize_input(x, weights, config)
        scales = q.scales if q.scales.shape[0] != m else q.scales[rows]
        part = replace(q, data=q.data[rows], scales=scales, logical_shape=(some, q.n))
    found = agreement(config, Call((part, weights)), result[rows], rel_tolerance=tolerance)
    return Checked(found.ok, f"{some} of {m} rows", found.reason)


def with_stale_memory(config: LayerConfig, m: int, device: str) -> None:
    """Leave memory of the output's size behind that holds NaN, for the next allocation to find.

    The calls that are timed allocate their outputs, as a layer's do. A kernel that writes nothing
    then gives NaN, and not what an earlier kernel left there.
    """
    fake = op_spec(config.op).fake(config, m)
    parts = fake.tensors() if isinstance(fake, QuantizedTensor) else (fake,)
    sizes = [part.untyped_storage().nbytes() for part in parts]
    held = [torch.full((size,), 0xFF, dtype=torch.uint8, device=device) for size in sizes]
    del held


def m_of(call: Call) -> int:
    """Give M of a call."""
    x = call.args[0]
    return x.m if isinstance(x, QuantizedTensor) else int(x.shape[0])
