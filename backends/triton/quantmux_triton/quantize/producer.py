"""What the FP8 and INT8 quantizers have in common as kernels: checks, variants, machine code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from quantmux.config import QuantizeConfig
from quantmux.errors import ConfigError
from quantmux.ops.checks import (
    check_given_scale,
    check_matrix,
    check_scalar,
    check_scales_given,
)
from quantmux.ops.quantized import DATA_DTYPES, DTYPES
from quantmux_triton.quantize.outputs import Outputs, require_on
from quantmux_triton.quantize.variants import current_device

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from quantmux.capability.arch import Arch
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import Operand, SiluMulQuantizeConfig
    from quantmux.config.layers import ProducerConfig
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux.registry.protocol import CompiledCode
    from quantmux_triton.arithmetic import Arithmetic
    from quantmux_triton.launcher import Launcher

SIGNIFICANT_BITS: Final = {"bf16": 8, "fp16": 11, "fp32": 24}
"""Bits of the significand of every plain format."""


class Source(NamedTuple):
    """A plain matrix as a launch needs it.

    Attributes:
        x: Values [M, n].
        m: Rows.
        row_stride: Elements between rows.
        column_stride: Elements between columns.
        is_aligned: Rows begin at multiples of 16 bytes and have no gaps between columns.
    """

    x: torch.Tensor
    m: int
    row_stride: int
    column_stride: int
    is_aligned: bool

    @classmethod
    def of(cls, x: torch.Tensor) -> Source:
        """Look at the strides and the address of x [M, n]."""
        m = x.size(0)
        row_stride, column_stride = x.stride()
        if m <= 1:
            row_stride = 0  # the stride of a single row says nothing
        is_aligned = (
            column_stride == 1 and not (x.data_ptr() | (row_stride * x.element_size())) & 15
        )
        return cls(x, m, row_stride, column_stride, is_aligned)


class Plan(ABC):
    """A config on an architecture: the launchers of its variants, and how to launch them."""

    outputs: Outputs

    @abstractmethod
    def launchers(self) -> Mapping[Launcher, tuple[Any, ...]]:
        """Give every variant with arguments of the kinds of a launch's (dtypes for tensors)."""

    @abstractmethod
    def run(self, source: Source, out: QuantizedTensor, scale: torch.Tensor | None) -> None:
        """Launch."""


class QuantizeKernel(ABC):
    """A kernel of ``quantize``; see `quantmux.registry.protocol.Producer`."""

    variants_of_a_config: int

    def bind(self, config: ProducerConfig, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        """Give ``fn(x, *, scale=None, global_scale=None, out=None)`` for x [M, n] of any strides.

        Rows that begin at multiples of 16 bytes and have no gaps between columns are read 16 bytes
        at a time, others element by element. On a GPU the value of a given scale is not looked at,
        as that would wait for it.

        Raises:
            ConfigError: The config is of another op.
        """
        asked = _quantize_config(config)
        return bound(self.plan(asked, device.arch, device.name), asked, asked.n, device)

    def warmup(self, config: ProducerConfig, ms: Sequence[int]) -> None:
        """Compile every variant of a config: none depends on M."""
        del ms
        device = current_device()
        if device is None:
            return
        plan = self.plan(_quantize_config(config), device.arch, device.name)
        for launcher, kinds in plan.launchers().items():
            launcher.warm(*kinds)

    def compile_for(self, config: ProducerConfig, arch: Arch) -> list[CompiledCode]:
        """Give the machine code of every variant of a config."""
        launchers = self.plan(_quantize_config(config), arch).launchers()
        return [launcher.compile_for(arch, *kinds) for launcher, kinds in launchers.items()]

    def declared_variants(self, config: ProducerConfig) -> int:
        """Give how many variants a config has at most."""
        del config
        return self.variants_of_a_config

    @abstractmethod
    def compiled_variants(self) -> int:
        """Count the variants of this process."""

    @abstractmethod
    def plan(self, config: QuantizeConfig, arch: Arch, device: str = "") -> Plan:
        """Choose tiles and variants for a config.

        Args:
            config: What is made.
            arch: Architecture that the code is for.
            device: Name of the device's profile, by which measured tiles are found.
        """


def bound(
    plan: Plan, config: QuantizeConfig | SiluMulQuantizeConfig, width: int, device: DeviceProfile
) -> Callable[..., QuantizedTensor]:
    """Give the function that checks its arguments and runs a plan.

    Args:
        plan: What is launched.
        config: Operand and input format.
        width: Columns of x.
        device: Where x has to be.
    """
    operand, in_dtype, dtype = config.operand, config.in_dtype, DTYPES[config.in_dtype]
    on_gpu, is_dynamic = device.is_cuda, operand.dynamic
    take, launch, source_of = plan.outputs.take, plan.run, Source.of

    def run(
        x: torch.Tensor,
        *,
        scale: torch.Tensor | None = None,
        global_scale: torch.Tensor | None = None,
        out: QuantizedTensor | None = None,
    ) -> QuantizedTensor:
        shape = x.shape
        if x.dtype is not dtype or x.is_cuda is not on_gpu or len(shape) != 2 or shape[1] != width:
            require_on(x, device)
            check_matrix(x, width, in_dtype)
        if not is_dynamic or scale is not None or global_scale is not None:
            check_scales_given(operand, scale, global_scale)
            scale = _given(scale, x, operand)
        made = take(out, shape[0], x.device)
        launch(source_of(x), made, scale)
        return made

    return run


def _given(scale: torch.Tensor | None, x: torch.Tensor, operand: Operand) -> torch.Tensor | None:
    """Give a scale as fp32 [1]; on a GPU its value is not looked at, as that would wait for it."""
    if scale is None or x.is_cuda:
        return scale if scale is None else check_scalar(scale, "scale", x.device)
    pow2 = operand.scale_rounding == "pow2"
    return check_given_scale(scale, "scale", x.device, pow2=pow2)


def operand_constexprs(config: QuantizeConfig, how: Arithmetic) -> dict[str, Any]:
    """Give the compile-time arguments that say what is computed."""
    operand = config.operand
    return {
        "N": config.n,
        "PADDED_N": config.padded_n,
        "FORMAT": how.format,
        "HW": how.hw,
        "HOW": how.how,
        "FMAX": operand.max_value,
        "HAS_UB": operand.scale_ub is not None,
        "POW2": operand.scale_rounding == "pow2",
    }


def in_kind(config: QuantizeConfig) -> torch.dtype:
    """Give the torch dtype of the plain input."""
    return DTYPES[config.in_dtype]


def data_kind(config: QuantizeConfig, how: Arithmetic) -> torch.dtype:
    """Give the dtype by which kernels get the data.

    Its own where Triton has pointers to it; a view as uint8 costs half a microsecond a call.
    """
    return DATA_DTYPES[config.operand.element] if how.hw else torch.uint8


def as_bytes(out: QuantizedTensor) -> torch.Tensor:
    """Give the data as uint8: not every GPU's Triton has pointers to fp8."""
    return out.data.view(torch.uint8)


def _quantize_config(config: ProducerConfig) -> QuantizeConfig:
    if not isinstance(config, QuantizeConfig):
        raise ConfigError(f"a kernel of quantize was given {type(config).__name__}")
    return config
