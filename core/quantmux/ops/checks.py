"""Checks of the tensors that callers pass to ops: typed errors, need against value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux.errors import DtypeError, InputError, LayoutError, ShapeError
from quantmux.ops.quantized import DTYPE_NAMES, DTYPES

if TYPE_CHECKING:
    from quantmux.config import Layout, Operand
    from quantmux.ops.quantized import QuantizedTensor


def check_matrix(x: torch.Tensor, width: int, dtype: str, name: str = "x") -> None:
    """Check a plain activation [M, width].

    Raises:
        ShapeError: Not two dimensions, or another width.
        DtypeError: Another dtype than the config names.
    """
    if x.ndim != 2:
        raise ShapeError(
            f"{name} needs 2 dimensions [M, {width}], found {list(x.shape)}",
            hint="flatten leading dimensions; quantmux.Linear does that for you",
        )
    if x.shape[1] != width:
        raise ShapeError(
            f"{name} has the wrong width",
            facts={"need": f"[M, {width}]", "found": list(x.shape)},
        )
    check_dtype(x, dtype, name)


def check_dtype(x: torch.Tensor, dtype: str, name: str) -> None:
    """Check the dtype of a plain tensor.

    Raises:
        DtypeError: Another dtype than the config names.
    """
    if x.dtype != DTYPES[dtype]:
        found = DTYPE_NAMES.get(x.dtype, str(x.dtype))
        raise DtypeError(
            f"{name} needs {dtype}, found {found}",
            hint=f"cast {name}, or write the config for {found}",
        )


def check_scalar(value: torch.Tensor, name: str, device: torch.device) -> torch.Tensor:
    """Give a scale as fp32 [1] on the device.

    Raises:
        ShapeError: More than one element.
        DtypeError: Not fp32.
        InputError: On another device.
    """
    if value.numel() != 1:
        raise ShapeError(f"{name} needs one element, found {list(value.shape)}")
    if value.dtype != torch.float32:
        raise DtypeError(f"{name} needs fp32, found {value.dtype}")
    check_device(value, name, device)
    return value.reshape(1)


def check_device(value: torch.Tensor, name: str, device: torch.device) -> None:
    """Check that a tensor is where its companions are.

    Raises:
        InputError: It is on another device.
    """
    if value.device != device:
        raise InputError(f"{name} is on {value.device}, its companions on {device}", code="device")


def check_scales_given(
    operand: Operand, scale: torch.Tensor | None, global_scale: torch.Tensor | None
) -> None:
    """Check that exactly the scales a call needs are given: none is ever assumed to be 1.

    Raises:
        InputError: One is missing or superfluous.
    """
    if operand.dynamic and scale is not None:
        raise InputError(
            f"{operand.name} computes its scales; scale= is for static operands",
            hint='use an operand with dynamic=False, such as "fp8_tensor_static"',
            code="scale",
        )
    if not operand.dynamic and scale is None:
        raise InputError(
            f"{operand.name} needs scale= (fp32 [1])",
            hint="find it with quantmux.calibrate, or use a dynamic operand",
            code="scale",
        )
    if global_scale is not None and not operand.is_nvfp4:
        raise InputError(f"{operand.name} has no global scale", code="global_scale")
    if operand.global_scale == "static" and global_scale is None:
        raise InputError(
            f"{operand.name} needs global_scale= (fp32 [1], the multiplier g)",
            hint='find it with quantmux.calibrate, or use the dynamic operand "nvfp4"',
            code="global_scale",
        )


def check_out(
    out: QuantizedTensor,
    operand: Operand,
    layout: Layout,
    logical_shape: tuple[int, ...],
    device: torch.device,
) -> None:
    """Check that a quantized tensor can be written into.

    Raises:
        LayoutError: Another operand or layout, or broken strides.
        ShapeError: Another logical shape.
        InputError: On another device.
    """
    if out.operand != operand or out.layout != layout:
        raise LayoutError(
            "out has another operand or layout",
            facts={
                "need": f"{operand.name} {layout}",
                "found": f"{out.operand.name} {out.layout}",
            },
        )
    if out.logical_shape != logical_shape:
        raise ShapeError(
            "out has another logical shape",
            facts={"need": list(logical_shape), "found": list(out.logical_shape)},
        )
    check_device(out.data, "out", device)
    out.check()
