"""One reference for all pipelines of a cell: what each computed on numbers it had not seen."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.bench.gate import Checked
from quantmux.dispatch.reference_config import reference_config
from quantmux.ops.agreement import linear_agreement
from quantmux.ops.linear.reference import linear_exact, quantize_input
from quantmux.ops.linear.tolerance import Magnitude, linear_magnitude

if TYPE_CHECKING:
    from quantmux.bench.materials import Materials
    from quantmux.config import LinearConfig
    from quantmux.dispatch.pipeline import Pipeline

_CUDA_FLOPS: Final = 1e11
"""fp64 operations of one product: some 2 ms on an H200, of which a cell needs three."""

_HOST_FLOPS: Final = 1e8
_ELEMENTS: Final = 1 << 23
"""Elements that are compared in fp64, at most."""


class Referee:
    """Compares results of pipelines with the reference, which is computed once.

    Where fp64 would take long, evenly spaced rows are compared.

    Args:
        config: Of a linear.
        x: Plain input [M, K] of all pipelines.
        materials: Its weights.
    """

    def __init__(self, config: LinearConfig, x: torch.Tensor, materials: Materials) -> None:
        self._config = config
        self._x = x
        self._materials = materials
        self._known: dict[LinearConfig, tuple[torch.Tensor, Magnitude]] = {}
        flops = _CUDA_FLOPS if x.is_cuda else _HOST_FLOPS
        n, k, m = config.n, config.k, x.shape[0]
        some = max(1, min(math.floor(flops / (2 * n * k)), _ELEMENTS // n))
        self._rows: torch.Tensor | None = None
        self.how = "all rows"
        if some < m:
            self._rows = torch.linspace(0, m - 1, some, device=x.device).long()
            self.how = f"{some} of {m} rows"

    def compare(self, pipeline: Pipeline, result: Any) -> Checked:
        """Compare y [M, N] of a pipeline."""
        if not isinstance(result, torch.Tensor):
            return Checked(False, reason=f"needs a tensor, found {type(result).__name__}")
        if not bool(torch.isfinite(result).all()):
            return Checked(False, reason="y holds NaN or Inf, though x and the weights do not")
        asked = reference_config(self._config, pipeline)
        want, size = self._reference(asked)
        part = result if self._rows is None else result[self._rows]
        found = linear_agreement(asked, want, size, part, rel_tolerance=pipeline.rel_tolerance)
        return Checked(found.ok, self.how, found.reason)

    def _reference(self, asked: LinearConfig) -> tuple[torch.Tensor, Magnitude]:
        known = self._known.get(asked)
        if known is None:
            weights, x = self._materials.weights, self._x
            part: Any = x
            if self._rows is not None:
                part = x[self._rows]
                if asked.scheme.activation is not None:
                    # the scales of x may depend on all its rows: quantized whole, then cut
                    q = quantize_input(x, weights, asked)
                    scales = q.scales if q.scales.shape[0] != x.shape[0] else q.scales[self._rows]
                    shape = (part.shape[0], q.n)
                    part = replace(q, data=q.data[self._rows], scales=scales, logical_shape=shape)
            known = linear_exact(part, weights, asked), linear_magnitude(part, weights, asked)
            self._known[asked] = known
        return known
