"""Checks of what callers pass to bound callables. Slow: run after a failure, or once per layout."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.capability.detect import device_here
from quantmux.config.layouts import Layout
from quantmux.dispatch.join import satisfies, satisfies_layout
from quantmux.errors import DtypeError, InputError, LayoutError, ShapeError
from quantmux.ops.checks import check_device as check_tensor_device
from quantmux.ops.checks import (
    check_dtype,
    check_matrix,
    check_out,
    check_scalar,
    check_scales_given,
)
from quantmux.ops.quantized import QuantizedTensor
from quantmux.ops.rmsnorm_quantize.reference import check_weight
from quantmux.ops.rope import check_rope_inputs
from quantmux.ops.rope_quantize.reference import given_scale

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import (
        InverseRopeQuantizeConfig,
        LayerConfig,
        LinearConfig,
        Operand,
        QuantizeConfig,
        RmsNormQuantizeConfig,
        RopeQuantizeConfig,
        SiluMulQuantizeConfig,
    )

_ARGUMENTS: Final[dict[str, tuple[int, tuple[str, ...]]]] = {
    "linear": (2, ("out",)),
    "quantize": (1, ("scale", "global_scale", "out")),
    "silu_mul_quantize": (1, ("scale", "global_scale", "out")),
    "inverse_rope_quantize": (3, ("positions", "cos_sin_cache", "out")),
    "rmsnorm_quantize": (2, ("weight", "scale", "global_scale", "out")),
    "rope_quantize": (3, ("positions", "cos_sin_cache", "scale", "out")),
    "relayout": (1, ("out",)),
}
"""Per op: how many arguments have a place, and the names that may be given."""


def check_quantized(
    q: QuantizedTensor, config: LinearConfig, reads: QuantizeConfig | None, where: str
) -> None:
    """Check that a quantized x is what the consumer in use reads.

    Args:
        q: Quantized matrix [M, K].
        config: The linear.
        reads: What the consumer reads; None when it takes a plain tensor.
        where: The pipeline and its M, for the message.

    Raises:
        LayoutError: Another operand or layout, or broken strides.
        ShapeError: Another width, or tensors of another shape than the layout gives.
        DtypeError: Tensors of another dtype.
    """
    if reads is None:
        raise LayoutError(
            f"{where} reads a plain x, found a quantized one",
            facts={"need": f"{config.in_dtype} [M, {config.k}]", "found": _describe(q)},
            hint="pass the plain tensor; Linear.input_layout(m) says what is read",
        )
    if len(q.logical_shape) != 2 or q.n != config.k:
        raise ShapeError(
            "a quantized x has the wrong logical shape",
            facts={"need": f"[M, {config.k}]", "found": list(q.logical_shape)},
        )
    reasons = (*satisfies(q.operand, reads.operand), *satisfies_layout(q.layout, reads.layout))
    if reasons:
        raise LayoutError(
            f"a quantized x is not what {where} reads",
            facts={
                "need": f"{reads.operand.name} {reads.layout}",
                "found": _describe(q),
                **{f"{r.field}": f"needs {r.required}, found {r.actual}" for r in reasons},
            },
            hint="quantize with the config of Linear.input_layout(m), or relayout it",
        )
    q.check()


def home_of(device: Any) -> torch.device:
    """Give the torch device of a name, before anything is moved there.

    Raises:
        ConfigError: This machine has no such device.
    """
    if str(device) == "meta":
        return torch.device("meta")
    return torch.device(device_here(device).torch_name)


def check_call(
    config: LayerConfig, device: DeviceProfile, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Check the arguments of a call that failed, before its kernel is blamed.

    Values are looked at on the CPU only: on a GPU that would synchronise.

    Raises:
        InputError: They, and not the kernel, are wrong.
    """
    if not args:
        raise InputError(f"{config.op} needs its input")
    x = args[0]
    check_device(x, device)
    _check_names(config.op, args, kwargs)
    match config.op:
        case "linear":
            if not isinstance(x, QuantizedTensor):
                _require_tensor(x, "x")
                check_matrix(x, config.k, config.in_dtype)
            _check_out(args[1] if len(args) > 1 else kwargs.get("out"), x, config)
        case "quantize" | "silu_mul_quantize":
            _check_rows(config, x, config.n if config.op == "quantize" else 2 * config.n, kwargs)
        case "rmsnorm_quantize":
            _check_rows(config, x, config.n, kwargs)
            weight: Any = args[1] if len(args) > 1 else kwargs.get("weight")
            _require_tensor(weight, "weight")
            check_weight(weight, config, x.device)
        case "inverse_rope_quantize":
            _check_rotation(config, "o", args, kwargs)
            shape = (x.shape[0], config.groups, config.n)
            _check_quantized_out(kwargs.get("out"), config.operand, config.layout, shape, x.device)
        case "rope_quantize":
            _check_rotation(config, "x", args, kwargs)
            given_scale(kwargs.get("scale"), config, x.device)
            _check_scale(kwargs.get("scale"), "scale", x.device)
            shape = (x.shape[0], config.heads, config.head_dim)
            _check_quantized_out(kwargs.get("out"), config.operand, config.layout, shape, x.device)
        case "relayout":
            if not isinstance(x, QuantizedTensor):
                raise InputError(f"relayout needs a QuantizedTensor, found {type(x).__name__}")
            x.check()
            _check_quantized_out(
                kwargs.get("out"), config.operand, config.target, x.logical_shape, x.device
            )


def _check_names(op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    places, names = _ARGUMENTS[op]
    if len(args) > places:
        raise InputError(f"{op} takes {places} arguments without a name, found {len(args)}")
    for name in kwargs:
        if name not in names:
            raise InputError(
                f'{op} has no argument "{name}"', facts=["its arguments: " + " ".join(names)]
            )


def _require_tensor(value: Any, name: str) -> None:
    if not isinstance(value, torch.Tensor):
        raise InputError(f"{name} needs to be a tensor, found {type(value).__name__}")


def _check_scale(value: Any, name: str, device: torch.device) -> None:
    if value is None:
        return
    _require_tensor(value, name)
    check_scalar(value, name, device)
    if device.type == "cpu":
        number = float(value)
        if not (math.isfinite(number) and number > 0):
            raise InputError(f"{name} needs to be finite and above 0, found {number}", code=name)


def _check_quantized_out(
    out: Any, operand: Operand, layout: Layout, shape: tuple[int, ...], device: torch.device
) -> None:
    if out is None:
        return
    if not isinstance(out, QuantizedTensor):
        raise InputError(f"out needs to be a QuantizedTensor, found {type(out).__name__}")
    check_out(out, operand, layout, shape, device)


def _check_rows(
    config: QuantizeConfig | SiluMulQuantizeConfig | RmsNormQuantizeConfig,
    x: Any,
    width: int,
    kwargs: dict[str, Any],
) -> None:
    """Check a matrix of rows, its scales and its output."""
    _require_tensor(x, "x")
    check_matrix(x, width, config.in_dtype)
    scale, global_scale = kwargs.get("scale"), kwargs.get("global_scale")
    check_scales_given(config.operand, scale, global_scale)
    _check_scale(scale, "scale", x.device)
    _check_scale(global_scale, "global_scale", x.device)
    shape = (x.shape[0], config.n)
    _check_quantized_out(kwargs.get("out"), config.operand, config.layout, shape, x.device)


def _check_rotation(
    config: InverseRopeQuantizeConfig | RopeQuantizeConfig,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    """Check heads, positions and cache; the values of positions where they are on the CPU."""
    x = args[0]
    _require_tensor(x, name)
    positions: Any = args[1] if len(args) > 1 else kwargs.get("positions")
    cache: Any = args[2] if len(args) > 2 else kwargs.get("cos_sin_cache")
    on_cpu = x.device.type == "cpu"
    check_rope_inputs(x, positions, cache, config, name=name, reads_positions=on_cpu)


def no_rows(x: Any) -> InputError:
    """Give the error for an x that has no first dimension."""
    if isinstance(x, torch.Tensor):
        return ShapeError("x needs rows, found a tensor without dimensions")
    return InputError(f"a tensor is needed, found {type(x).__name__}")


def check_layer_input(x: Any, k: int, dtype: torch.dtype, device: torch.device) -> None:
    """Raise what is wrong with a plain input of a layer, if anything is.

    Raises:
        InputError: Not a tensor, or on another device than the weights.
        DtypeError: Another dtype.
        ShapeError: No dimension, or another width.
    """
    if not isinstance(x, torch.Tensor):
        raise InputError(f"x needs to be a tensor or a QuantizedTensor, found {type(x).__name__}")
    if x.dtype is not dtype:
        raise DtypeError(
            f"x needs {dtype}, found {x.dtype}",
            hint=f"cast it, or make the layer with in_dtype for {x.dtype}",
        )
    if x.ndim == 0 or x.shape[-1] != k:
        raise ShapeError(
            "x has the wrong width", facts={"need": f"[..., {k}]", "found": list(x.shape)}
        )
    if x.device != device:
        raise elsewhere(x.device, device)


def elsewhere(found: torch.device, need: torch.device | str) -> InputError:
    """Give the error for an x that is on another device than the weights."""
    return InputError(
        f"x is on {found}, the weights are on {need}",
        hint=f'move one of them: x.to("{need}"), or layer.to("{found}")',
        code="device",
    )


def check_device(x: Any, device: DeviceProfile) -> None:
    """Check that a tensor, plain or quantized, is on a device.

    Raises:
        InputError: It is elsewhere, or no tensor.
    """
    found = getattr(x, "device", None)
    if not isinstance(found, torch.device):
        raise InputError(f"a tensor is needed, found {type(x).__name__}")
    is_here = found.type == ("cuda" if device.is_cuda else "cpu")
    if is_here and device.index is not None and found.index is not None:
        is_here = found.index == device.index
    if not is_here:
        raise elsewhere(found, device.torch_name)


def _check_out(out: Any, x: Any, config: LinearConfig) -> None:
    if out is None:
        return
    need = (x.m if isinstance(x, QuantizedTensor) else x.shape[0], config.n)
    if not isinstance(out, torch.Tensor) or tuple(out.shape) != need:
        found = list(getattr(out, "shape", ())) or type(out).__name__
        raise ShapeError("out has the wrong shape", facts={"need": list(need), "found": found})
    check_dtype(out, config.out_dtype, "out")
    check_tensor_device(out, "out", x.device)


def _describe(q: QuantizedTensor) -> str:
    return f"{q.operand.name} {q.layout} {list(q.logical_shape)}"


def as_layout(value: str | Layout, like: Layout) -> Layout:
    """Give a layout: a name keeps the padding of ``like``."""
    return value if isinstance(value, Layout) else like.replace(scales=value)
