"""Checks of the tensors that callers pass to ops: typed errors, need against value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from quantmux.errors import DtypeError, InputError, LayoutError, ShapeError
from quantmux.ops.quantized import DTYPE_NAMES, DTYPES

if TYPE_CHECKING:
    from quantmux.config import Layout, Operand
    from quantmux.ops.quantized import QuantizedTensor


_MANTISSA: Final = 0x7FFFFF


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


def check_scale_values(
    what: str, scales: torch.Tensor, *, zero_allowed: bool = False, pow2: bool = False
) -> None:
    """Check that scales are scales; reads them, hence synchronises.

    Args:
        what: Their name, for messages.
        scales: fp32 or fp8_e4m3, any shape.
        zero_allowed: Whether 0 is a scale, as it is for blocks of NVFP4.
        pow2: Whether each needs to be a power of two that UE8M0 has, 2^-127 … 2^127.

    Raises:
        InputError: One is NaN, infinite, negative, or 0 (code ``scale_value``), or no power of two
            (code ``scale_not_pow2``); names the first.
    """
    values = scales.to(torch.float32)
    good = torch.isfinite(values) & ((values >= 0) if zero_allowed else (values > 0))
    if not bool(good.all()):
        raise InputError(
            f"{what} holds a value that is no scale",
            facts={
                "need": "finite, " + ("not negative" if zero_allowed else "positive"),
                "found": _first_bad(values, good),
            },
            hint="the checkpoint is damaged, or its scales are stored in another direction",
            code="scale_value",
        )
    if not pow2:
        return
    good = ((values.contiguous().view(torch.int32) & _MANTISSA) == 0) | (values == 2.0**-127)
    if not bool(good.all()):
        raise InputError(
            f"{what} holds a value that is no power of two",
            facts={"need": "2^-127 … 2^127 (UE8M0)", "found": _first_bad(values, good)},
            hint="use the operand without _pow2, or round the scales up before quantizing",
            code="scale_not_pow2",
        )


def check_given_scale(
    value: torch.Tensor, name: str, device: torch.device, *, pow2: bool = False
) -> torch.Tensor:
    """Give a scale as fp32 [1] on the device, as `check_scalar` does, and check its value.

    A stream that is being captured cannot be waited for: there the value is not read.

    Raises:
        ShapeError: More than one element.
        DtypeError: Not fp32.
        InputError: On another device, or the value is no scale.
    """
    scalar = check_scalar(value, name, device)
    captured = scalar.is_cuda and torch.cuda.is_current_stream_capturing()
    if not captured and not scalar.is_meta:
        check_scale_values(name, scalar, pow2=pow2)
    return scalar


def _first_bad(values: torch.Tensor, good: torch.Tensor) -> str:
    first = [int(i) for i in (~good).nonzero()[0]]
    return f"{float(values[tuple(first)])} at {first}, {int((~good).sum())} in all"


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
