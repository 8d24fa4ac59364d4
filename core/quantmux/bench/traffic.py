"""The roofline model: bytes that an op must move, operations it must do, the least time of both.

Every tensor is read or written once. A pipeline's own intermediate (the quantized activation) is
not counted: a fused kernel would not write it, and at most sizes it stays in the L2 cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from quantmux.config.layouts import data_shape, default_layout, scale_storage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantmux.config import LayerConfig, LinearConfig
    from quantmux.config.layouts import Layout
    from quantmux.config.operands import Operand

Part = Literal["pipeline", "gemm"]
"""A whole pipeline from a plain x, or its consumer alone on an x that is quantized already."""

_WIDTH: Final = {"bf16": 2, "fp16": 2, "fp32": 4}
_FP4: Final = "fp4_e2m1"


@dataclass(frozen=True, slots=True)
class Work:
    """What one call must do.

    Attributes:
        moved: Bytes read and written.
        flops: Multiplications and additions of the matrix product; 0 for a producer.
        rate: Which compute ceiling bounds it: ``fp8``, ``int8``, ``fp4`` or ``bf16``.
    """

    moved: float
    flops: float
    rate: str

    def floor_us(self, ceilings: Mapping[str, float]) -> float | None:
        """Give the least time, µs, under the ceilings of a run; None without a copy rate.

        Args:
            ceilings: ``copy_gb_s`` and ``<rate>_tflops``; where the rate was not measured, the
                highest that was bounds it.
        """
        copy = ceilings.get("copy_gb_s")
        if not copy:
            return None
        floor = self.moved / copy * 1e-3
        if self.flops:
            rates = [value for name, value in ceilings.items() if name.endswith("_tflops")]
            rate = ceilings.get(f"{self.rate}_tflops") or max(rates, default=0.0)
            if rate:
                floor = max(floor, self.flops / rate * 1e-6)
        return floor


def work(config: LayerConfig, m: int, part: Part = "pipeline", *, native: bool = True) -> Work:
    """Give what a call with M rows must do.

    Args:
        config: Of any op.
        m: Rows.
        part: Of a linear: from a plain x, or from a quantized one.
        native: The kernel computes in the elements of the scheme; else in 16 bit.
    """
    if config.op == "linear":
        return _linear(config, m, part, native=native)
    if config.op == "relayout":
        data = math.prod(data_shape(config.operand, config.source, m))
        moves = config.source.padded_n != config.target.padded_n
        scales = _scale_bytes(config.operand, config.source, m)
        scales += _scale_bytes(config.operand, config.target, m)
        return Work(scales + (2 * data if moves else 0), 0.0, "bf16")
    if config.op == "inverse_rope_quantize":
        rows = m * config.groups
        quantized = _quantized_bytes(config.operand, config.layout, rows)
        plain = rows * config.n * _WIDTH[config.in_dtype]
        # int64 positions; a row of the table each, unless two tokens are at one position
        return Work(plain + quantized + m * (8 + 4 * config.rope_dim), 0.0, "bf16")
    if config.op == "rope_quantize":
        elements = m * config.heads * config.head_dim
        moved = elements * (_WIDTH[config.in_dtype] + 1) + m * (8 + 4 * config.rope_dim)
        return Work(moved + (4 if config.static_scale is None else 0), 0.0, "bf16")
    if config.op == "rmsnorm_quantize":
        moved = (m + 1) * config.n * _WIDTH[config.in_dtype]
        if config.fp32_weight:
            moved += config.n * (4 - _WIDTH[config.in_dtype])
        return Work(moved + _quantized_bytes(config.operand, config.layout, m), 0.0, "bf16")
    width = config.n * (2 if config.op == "silu_mul_quantize" else 1)
    moved = m * width * _WIDTH[config.in_dtype]
    return Work(moved + _quantized_bytes(config.operand, config.layout, m), 0.0, "bf16")


def _linear(config: LinearConfig, m: int, part: Part, *, native: bool) -> Work:
    scheme, n, k = config.scheme, config.n, config.k
    moved = n * k * (0.5 if scheme.weight.element == _FP4 else 1.0)
    moved += weight_scale_bytes(scheme.weight, n, k)
    moved += m * n * _WIDTH[config.out_dtype] + (2 * n if config.bias else 0)
    activation = scheme.activation
    if part == "gemm" and activation is not None:
        moved += _quantized_bytes(activation, default_layout(activation, k), m)
    else:
        moved += m * k * _WIDTH[config.in_dtype]
    rate = "bf16"
    if native and activation is not None:
        rate = {"int8": "int8", _FP4: "fp4"}.get(activation.element, "fp8")
    return Work(moved, 2.0 * m * n * k, rate)


def weight_scale_bytes(operand: Operand, n: int, k: int) -> int:
    """Give the bytes of the canonical scales of a weight [N, K]."""
    if operand.block.kind == "tensor":
        return 4
    count = math.prod(operand.block.grid(n, k))
    return count * (1 if operand.scale_type == "e4m3" else 4)


def _quantized_bytes(operand: Operand, layout: Layout, m: int) -> int:
    # the stored row of FP4 is in bytes already; every other element is one byte
    return math.prod(data_shape(operand, layout, m)) + _scale_bytes(operand, layout, m)


def _scale_bytes(operand: Operand, layout: Layout, m: int) -> int:
    if ":" in layout.scales:
        return 0  # a plugin's own layout: its size is known to the plugin only
    return scale_storage(operand, layout, m) * (1 if operand.scale_type == "e4m3" else 4)
