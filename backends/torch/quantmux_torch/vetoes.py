"""What the capabilities' data cannot say: conditions on two fields, or on the installed torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux_torch.torch_build import installed_torch

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig

MAX_INT8_K: Final = (2**31 - 1) // 127**2
"""Longest row whose int8 products cannot overflow an int32 sum."""


def no_fp32_bias(config: LayerConfig, device: DeviceProfile) -> Rejection | None:
    """Refuse a bias with an fp32 output: cuBLASLt's epilogue has none, so it would cost a pass."""
    del device
    if config.op != "linear" or not config.bias or config.out_dtype != "fp32":
        return None
    return Rejection(
        code=RejectionCode.BIAS,
        field="bias",
        required="out_dtype bf16 or fp16 with a bias",
        actual="out_dtype fp32 with a bias",
        hint='use out_dtype="bf16", or add the bias yourself',
    )


def cublas_12_9(config: LayerConfig, device: DeviceProfile) -> Rejection | None:
    """Refuse a torch of this machine built before CUDA 12.9."""
    del config
    build = installed_torch()
    if device.is_present and build is not None and build.cuda_version < (12, 9):
        return Rejection(
            code=RejectionCode.NEEDS_PACKAGE,
            field="torch",
            required="a build for CUDA 12.9 or later",
            actual=f"CUDA {build.cuda}" if build.cuda else "no CUDA",
            hint="install a torch built for CUDA 12.9 or later",
        )
    return None


def no_fp32_bias_and_cublas_12_9(config: LayerConfig, device: DeviceProfile) -> Rejection | None:
    """Refuse as both of them do."""
    return cublas_12_9(config, device) or no_fp32_bias(config, device)


def sum_fits_int32(config: LayerConfig, device: DeviceProfile) -> Rejection | None:
    """Refuse a K for which the int32 accumulator could overflow."""
    del device
    if config.op != "linear" or config.k <= MAX_INT8_K:
        return None
    return Rejection(
        code=RejectionCode.ALIGN_K,
        field="in_features",
        required=f"at most {MAX_INT8_K}, so that the int32 sum cannot overflow",
        actual=str(config.k),
    )
