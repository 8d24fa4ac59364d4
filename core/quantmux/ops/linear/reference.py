"""The reference of ``linear``: what the op means, with an fp64 GEMM and one rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux.config import QuantizeConfig, default_layout
from quantmux.errors import DtypeError, InputError, LayoutError, ShapeError
from quantmux.ops.checks import check_device, check_matrix
from quantmux.ops.dequantize import decode_data, decoded, weight_scales
from quantmux.ops.layouts import canonical_scales
from quantmux.ops.linear.spec import empty_output
from quantmux.ops.linear.weights import check_weights
from quantmux.ops.numerics import expand_blocks, round_once
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.quantized import DTYPES, QuantizedTensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import LinearWeights

_CHUNK_ELEMENTS = 1 << 24
"""Weight elements widened to fp64 at a time: 128 MiB."""


def linear(
    x: torch.Tensor | QuantizedTensor,
    weights: LinearWeights,
    config: LinearConfig,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Give ``y = round(alpha · s_a · s_w · Σ + bias)``, [M, N], rounded once.

    Args:
        x: [M, K] plain in ``config.in_dtype``, or a quantized matrix of the scheme's activation
            operand. A plain x is quantized by the reference quantizer where the scheme has one.
        weights: Canonical weights.
        config: Shapes, scheme and dtypes.
        out: Written into and returned; allocated by `empty_output` when None.

    Raises:
        ShapeError: x, ``out`` or a weight tensor has another shape.
        DtypeError: x, ``out`` or a weight tensor has another dtype.
        LayoutError: A quantized x is of another operand.
        InputError: A needed scale is missing, not finite or not positive; devices differ.
    """
    y = linear_exact(x, weights, config)
    return _store(round_once(y, DTYPES[config.out_dtype]), config, out)


def linear_quantized(
    q: QuantizedTensor, weights: LinearWeights, config: LinearConfig
) -> torch.Tensor:
    """Give y [M, N] of a quantized x [M, K]; see `linear`."""
    return linear(q, weights, config)


def linear_weight_only(
    x: torch.Tensor, weights: LinearWeights, config: LinearConfig
) -> torch.Tensor:
    """Give y [M, N] of a plain x with the activation operand of the scheme ignored.

    For schemes that have one this changes the numbers: it is what a ``weight_only`` kernel gives.
    """
    if config.scheme.activation is not None:
        config = config.replace(scheme=config.scheme.replace(activation=None))
    return linear(x, weights, config)


def linear_exact(
    x: torch.Tensor | QuantizedTensor, weights: LinearWeights, config: LinearConfig
) -> torch.Tensor:
    """Give y in fp64 [M, N], before the one rounding; the value that kernels are judged by."""
    check_weights(weights, config)
    a, g_a = activation_values(x, weights, config)
    check_device(weights.data, "weights", a.device)
    parts = [a @ part.T for part in weight_parts(weights, config)]
    y = torch.cat(parts, dim=1)
    alpha = alpha_of(g_a, weights)
    if alpha is not None:
        y = y * alpha
    return y if weights.bias is None else y + weights.bias.to(torch.float64)


def quantize_input(
    x: torch.Tensor, weights: LinearWeights, config: LinearConfig
) -> QuantizedTensor:
    """Quantize a plain x [M, K] by the reference, in the default layout of the scheme's operand.

    Raises:
        InputError: The scheme leaves activations in 16 bit, or needs a scale that is missing.
    """
    activation = config.scheme.activation
    if activation is None:
        raise InputError(f"scheme {config.scheme.name} does not quantize its input")
    layout = default_layout(activation, config.k)
    producer = QuantizeConfig(
        operand=activation, n=config.k, layout=layout, in_dtype=config.in_dtype
    )
    return quantize(
        x,
        producer,
        scale=None if activation.dynamic else weights.input_scale,
        global_scale=weights.input_global_scale if activation.global_scale == "static" else None,
    )


def activation_values(
    x: torch.Tensor | QuantizedTensor, weights: LinearWeights, config: LinearConfig
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Give ``code · s_a`` in fp64 [M, K], which is exact, and the global multiplier g_a or None."""
    activation = config.scheme.activation
    if not isinstance(x, QuantizedTensor):
        check_matrix(x, config.k, config.in_dtype)
        if activation is None:
            return x.to(torch.float64), None
        x = quantize_input(x, weights, config)
    if activation is None or x.operand != activation:
        raise LayoutError(
            f"a quantized x is not what scheme {config.scheme.name} reads",
            facts={
                "need": activation.name if activation else f"plain {config.in_dtype}",
                "found": x.operand.name,
            },
        )
    if len(x.logical_shape) != 2 or x.n != config.k:
        raise ShapeError(
            "x has the wrong logical shape",
            facts={"need": f"[M, {config.k}]", "found": list(x.logical_shape)},
        )
    x.check()
    scales = expand_blocks(canonical_scales(x).to(torch.float64), activation.block, x.m, x.n)
    return decoded(x).to(torch.float64) * scales, x.global_scale


def weight_parts(weights: LinearWeights, config: LinearConfig) -> Iterator[torch.Tensor]:
    """Give ``code · s_w`` in fp64, which is exact, some whole row blocks [n', K] at a time."""
    operand, n, k = config.scheme.weight, config.n, config.k
    block_rows = max(operand.block.rows, 1)
    step = max(_CHUNK_ELEMENTS // k // block_rows, 1) * block_rows
    rows, cols = operand.block.grid(n, k)
    grid = weights.scales.to(torch.float32).reshape(rows, cols)
    for start in range(0, n, step):
        stop = min(start + step, n)
        first = 0 if rows == 1 else start // block_rows
        last = rows if rows == 1 else -(-stop // block_rows)
        scales = weight_scales(grid[first:last], operand.block, stop - start, k)
        codes = decode_data(weights.data[start:stop], operand, k)
        yield codes.to(torch.float64) * scales.to(torch.float64)


def alpha_of(g_a: torch.Tensor | None, weights: LinearWeights) -> torch.Tensor | None:
    """Give ``RN(g_a · g_w)`` as fp64, or the one that exists, or None."""
    g_w = weights.global_scale
    if g_a is None or g_w is None:
        alpha = g_w if g_a is None else g_a
        return None if alpha is None else alpha.to(torch.float64)
    return (g_a * g_w).to(torch.float64)


def _store(y: torch.Tensor, config: LinearConfig, out: torch.Tensor | None) -> torch.Tensor:
    m, n = y.shape
    if out is None:
        out = empty_output(m, n, y.dtype, y.device, contiguous=config.contiguous_output)
    if tuple(out.shape) != (m, n):
        raise ShapeError(
            "out has the wrong shape", facts={"need": [m, n], "found": list(out.shape)}
        )
    if out.dtype != y.dtype:
        raise DtypeError(f"out needs {y.dtype}, found {out.dtype}")
    check_device(out, "out", y.device)
    return out.copy_(y)
