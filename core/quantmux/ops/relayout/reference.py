"""The reference of ``relayout``: what the op means, on plain PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux.errors import LayoutError, ShapeError
from quantmux.ops.checks import check_out
from quantmux.ops.layouts import as_bits, canonical_scales, place_scales, require_own
from quantmux.ops.quantized import QuantizedTensor, empty_quantized

if TYPE_CHECKING:
    from quantmux.config import RelayoutConfig


def relayout(
    q: QuantizedTensor, config: RelayoutConfig, *, out: QuantizedTensor | None = None
) -> QuantizedTensor:
    """Give the same codes and scales in ``config.target``; padding beyond the logical is zero.

    Args:
        q: Quantized matrix [M, n] in ``config.source``.
        config: Operand, width, source and target layout.
        out: Written into and returned; allocated when None.

    Returns:
        The matrix in the target layout. It shares no memory with ``q``, the global scale apart.

    Raises:
        LayoutError: ``q`` has another operand or layout, or a layout belongs to a plugin.
        ShapeError: ``q`` has another width.
    """
    _check(q, config)
    m, n = q.m, q.n
    if out is None:
        out = empty_quantized(config.operand, config.target, m, n, q.device)
    else:
        check_out(out, config.operand, config.target, (m, n), q.device)
    # of an odd NVFP4 width, the last code shares its byte with a zero
    stored = -(-n // 2) if config.operand.is_nvfp4 else n
    source, target = as_bits(q.data), as_bits(out.data)
    target.zero_()
    target[:m, :stored].copy_(source[:m, :stored])
    place_scales(canonical_scales(q), config.operand, config.target, m, into=out.scales)
    if q.global_scale is not None and out.global_scale is not None:
        out.global_scale.copy_(q.global_scale)
    return out


def _check(q: QuantizedTensor, config: RelayoutConfig) -> None:
    require_own(config.source)
    require_own(config.target)
    if q.operand != config.operand or q.layout != config.source:
        raise LayoutError(
            "q is not in the source layout of the relayout",
            facts={
                "need": f"{config.operand.name} {config.source}",
                "found": f"{q.operand.name} {q.layout}",
            },
        )
    if len(q.logical_shape) != 2 or q.n != config.n:
        raise ShapeError(
            "q has the wrong logical shape",
            facts={"need": f"[M, {config.n}]", "found": list(q.logical_shape)},
        )
    q.check()
