"""What FlashInfer's NVFP4 quantizers give, as a quantized tensor, or copied into a caller's.

They allocate codes uint8 [M, n/2] and scales uint8, two-dimensional in the layout's stored extents,
with zeros in the padding; none of them takes an output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from quantmux.ops.checks import check_scalar, check_scales_given
from quantmux.ops.quantized import QuantizedTensor
from quantmux_flashinfer.layouts.scale_bytes import as_bytes, as_e4m3

if TYPE_CHECKING:
    import torch

    from quantmux.config import Layout, Operand


def checked_scale(
    operand: Operand,
    scale: torch.Tensor | None,
    global_scale: torch.Tensor | None,
    home: torch.device,
) -> torch.Tensor:
    """Give the global scale of a call, fp32 [1] on its device.

    Raises:
        InputError: It is missing, on another device, or ``scale`` was given.
        ShapeError, DtypeError: It is no fp32 [1].
    """
    check_scales_given(operand, scale, global_scale)
    given = cast("torch.Tensor", global_scale)  # check_scales_given has raised where it is None
    return check_scalar(given, "global_scale", home)


def packed(
    codes: torch.Tensor,
    scales: torch.Tensor,
    global_scale: torch.Tensor,
    operand: Operand,
    layout: Layout,
    shape: tuple[int, int],
) -> QuantizedTensor:
    """Give what the library allocated; only the global scale is copied, which costs a launch.

    A result that held the caller's own would be written through by who passes it on as ``out``.
    """
    return QuantizedTensor(codes, as_e4m3(scales), global_scale.clone(), operand, layout, shape)


def into(
    out: QuantizedTensor, codes: torch.Tensor, scales: torch.Tensor, global_scale: torch.Tensor
) -> QuantizedTensor:
    """Copy what the library allocated into a caller's output: three launches."""
    out.data.copy_(codes)
    as_bytes(out.scales).copy_(scales)
    if out.global_scale is not None:
        out.global_scale.copy_(global_scale)
    return out


def without_rows(made: QuantizedTensor, global_scale: torch.Tensor) -> QuantizedTensor:
    """Give an output of no rows its global scale."""
    if made.global_scale is not None:
        made.global_scale.copy_(global_scale)
    return made
