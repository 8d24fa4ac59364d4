"""Canonical weights: made from a float weight, and checked against a config."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from quantmux.config.layouts import round_up
from quantmux.errors import DtypeError, InputError, ShapeError
from quantmux.ops.checks import check_device, check_scale_values
from quantmux.ops.numerics import pack_fp4
from quantmux.ops.quantize.reference import quantize_blocks
from quantmux.ops.quantized import DATA_DTYPES, LinearWeights

if TYPE_CHECKING:
    from quantmux.config import LinearConfig, Operand, Scheme

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def quantize_weight(
    weight: torch.Tensor,
    scheme: Scheme,
    *,
    bias: torch.Tensor | None = None,
    input_scale: torch.Tensor | None = None,
    input_global_scale: torch.Tensor | None = None,
) -> LinearWeights:
    """Quantize a float weight [N, K] with the reference numerics.

    Args:
        weight: fp32, bf16 or fp16 [N, K].
        scheme: Its weight operand says how.
        bias: [N] in any float dtype, kept as it is.
        input_scale: fp32 [1] multiplier of static activations, kept.
        input_global_scale: fp32 [1] multiplier g_a of static NVFP4 activations, kept.

    Returns:
        Canonical weights; NVFP4 columns beyond K, up to a multiple of 16, are zero.

    Raises:
        ShapeError: ``weight`` is not two-dimensional or empty, or ``bias`` is not [N].
        DtypeError: ``weight`` or ``bias`` is not fp32, bf16 or fp16.
        InputError: ``weight`` holds NaN or Inf.
    """
    _check_float(weight, bias)
    # a weight operand says "static": its scales lie in the checkpoint. They are made here.
    operand = scheme.weight.replace(
        dynamic=True, global_scale="dynamic" if scheme.weight.is_nvfp4 else "none"
    )
    codes, scales, g = quantize_blocks(weight.detach().to(torch.float32), operand)
    if operand.is_nvfp4:
        codes = pack_fp4(functional.pad(codes, (0, -codes.shape[1] % 16)))
    if operand.block.kind == "tensor":
        scales = scales.reshape(1)
    return LinearWeights(
        data=codes,
        scales=scales,
        global_scale=g,
        bias=None if bias is None else bias.detach(),
        input_scale=input_scale,
        input_global_scale=input_global_scale,
    )


def check_weights(weights: LinearWeights, config: LinearConfig, *, name: str | None = None) -> None:
    """Check canonical weights against a config; reads the scales, hence synchronises.

    Every scale must be finite and positive. One exception: a block scale of NVFP4 may be 0,
    which is how an all-zero block is stored (its codes are then read as zeros). Scales of a pow2
    operand must be powers of two.

    Args:
        weights: Canonical weights.
        config: The layer they belong to.
        name: Name of the layer, for messages.

    Raises:
        ShapeError: A tensor has another shape than the config gives.
        DtypeError: A tensor has another dtype.
        InputError: A tensor is missing or superfluous, devices differ, or a scale is NaN,
            infinite, not positive, or no power of two though the operand says so.
    """
    where = f"{name}: " if name else ""
    operand, n, k = config.scheme.weight, config.n, config.k
    _check_tensor(f"{where}weight", weights.data, data_shape(operand, n, k), _data_dtype(operand))
    scale_dtype = torch.float8_e4m3fn if operand.is_nvfp4 else torch.float32
    _check_tensor(f"{where}weight scales", weights.scales, grid_shape(operand, n, k), scale_dtype)
    check_scale_values(
        f"{where}weight scales",
        weights.scales,
        zero_allowed=operand.is_nvfp4,
        pow2=operand.scale_rounding == "pow2",
    )
    _check_multiplier(f"{where}weight global scale", weights.global_scale, operand.is_nvfp4, config)
    _check_bias(where, weights.bias, config)
    activation = config.scheme.activation
    if activation is not None and not activation.dynamic:
        _check_multiplier(
            f"{where}input_scale",
            weights.input_scale,
            True,
            config,
            pow2=activation.scale_rounding == "pow2",
        )
    if activation is not None and activation.global_scale == "static":
        _check_multiplier(f"{where}input_global_scale", weights.input_global_scale, True, config)
    for part, tensor in weights.named().items():
        check_device(tensor, f"{where}{part}", weights.data.device)


def data_shape(operand: Operand, n: int, k: int) -> tuple[int, int]:
    """Give the shape of canonical codes: [N, K], or bytes [N, R16(K) / 2] for NVFP4."""
    return (n, round_up(k, 16) // 2) if operand.is_nvfp4 else (n, k)


def grid_shape(operand: Operand, n: int, k: int) -> tuple[int, ...]:
    """Give the shape of canonical scales: [1] per tensor, else the block grid."""
    return (1,) if operand.block.kind == "tensor" else operand.block.grid(n, k)


def _data_dtype(operand: Operand) -> torch.dtype:
    return DATA_DTYPES[operand.element]


def _check_float(weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    if weight.ndim != 2 or weight.numel() == 0:
        raise ShapeError(f"a weight needs the shape [N, K], found {list(weight.shape)}")
    if weight.dtype not in _FLOATS:
        raise DtypeError(f"a weight to quantize needs fp32, bf16 or fp16, found {weight.dtype}")
    if not bool(torch.isfinite(weight).all()):
        raise InputError("a weight to quantize holds NaN or Inf", code="non_finite")
    if bias is None:
        return
    if tuple(bias.shape) != (weight.shape[0],):
        raise ShapeError(f"bias needs the shape [{weight.shape[0]}], found {list(bias.shape)}")
    if bias.dtype not in _FLOATS:
        raise DtypeError(f"bias needs fp32, bf16 or fp16, found {bias.dtype}")


def _check_tensor(
    what: str, tensor: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    if tuple(tensor.shape) != shape:
        raise ShapeError(
            f"{what} has the wrong shape",
            facts={"need": list(shape), "found": list(tensor.shape)},
        )
    if tensor.dtype != dtype:
        raise DtypeError(f"{what} needs {dtype}, found {tensor.dtype}")


def _check_multiplier(
    what: str,
    value: torch.Tensor | None,
    wanted: bool,
    config: LinearConfig,
    *,
    pow2: bool = False,
) -> None:
    if value is None or not wanted:
        if wanted:
            raise InputError(
                f"{what} is missing",
                facts=[f"scheme {config.scheme.name} needs it (fp32 [1])"],
                hint="find activation scales with quantmux.calibrate, or use a dynamic scheme",
                code="missing_scale",
            )
        if value is not None:
            raise InputError(
                f"{what} is given, but scheme {config.scheme.name} has none", code="global_scale"
            )
        return
    _check_tensor(what, value, (1,), torch.float32)
    check_scale_values(what, value, pow2=pow2)


def _check_bias(where: str, bias: torch.Tensor | None, config: LinearConfig) -> None:
    if (bias is not None) != config.bias:
        raise InputError(
            f"{where}bias is {'given' if bias is not None else 'missing'}",
            facts=[f"the config says bias={config.bias}"],
            code="bias",
        )
    if bias is not None and bias.dtype not in _FLOATS:
        raise DtypeError(f"{where}bias needs fp32, bf16 or fp16, found {bias.dtype}")
    if bias is not None and tuple(bias.shape) != (config.n,):
        raise ShapeError(
            f"{where}bias has the wrong shape",
            facts={"need": [config.n], "found": list(bias.shape)},
        )
