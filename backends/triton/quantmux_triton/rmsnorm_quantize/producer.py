"""What the kernels of rmsnorm_quantize have in common: checks, variants, machine code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.config import RmsNormQuantizeConfig
from quantmux.errors import ConfigError
from quantmux.ops.checks import (
    check_given_scale,
    check_matrix,
    check_scalar,
    check_scales_given,
)
from quantmux.ops.quantized import DATA_DTYPES, DTYPES
from quantmux.ops.rmsnorm_quantize.reference import check_weight
from quantmux_triton.arithmetic import (
    CORRECTED_ONCE,
    CORRECTED_TWICE,
    FORMATS,
    GUARDED_ONCE,
    GUARDED_TWICE,
    arithmetic,
    converts_fp8,
)
from quantmux_triton.interpreter import interpreting
from quantmux_triton.quantize.outputs import require_on
from quantmux_triton.quantize.producer import Source
from quantmux_triton.quantize.variants import current_device

_ONCE: Final = {CORRECTED_TWICE: CORRECTED_ONCE, GUARDED_TWICE: GUARDED_ONCE}
"""One correction is within 2^-44 of the quotient before it is rounded, by a reciprocal of a unit's
error too; the second would buy what the last bit of r does not keep."""

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from quantmux.capability.arch import Arch
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import Operand
    from quantmux.config.layers import ProducerConfig
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux.registry.protocol import CompiledCode
    from quantmux_triton.launcher import Launcher
    from quantmux_triton.quantize.outputs import Outputs


class NormPlan(ABC):
    """A config on an architecture: the launchers of its variants, and how to launch them."""

    outputs: Outputs

    @abstractmethod
    def launchers(self) -> Mapping[Launcher, tuple[Any, ...]]:
        """Give every variant with arguments of the kinds of a launch's (dtypes for tensors)."""

    @abstractmethod
    def run(
        self,
        source: Source,
        weight: torch.Tensor,
        out: QuantizedTensor,
        scale: torch.Tensor | None,
    ) -> None:
        """Launch."""


class RmsNormKernel(ABC):
    """A kernel of ``rmsnorm_quantize``; see `quantmux.registry.protocol.Producer`."""

    def bind(self, config: ProducerConfig, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        """Give ``fn(x, weight, *, scale=None, global_scale=None, out=None)`` for any strides.

        x is [M, n], the weight [n]. Where rows of x and the weight begin at multiples of 16 bytes
        and have no gaps, they are read 16 bytes at a time, else element by element. On a GPU the
        value of a given scale is not looked at, as that would wait for it.

        Raises:
            ConfigError: The config is of another op.
        """
        asked = _checked(config)
        return _bound(self.plan(asked, device.arch, device.name), asked, device)

    def warmup(self, config: ProducerConfig, ms: Sequence[int]) -> None:
        """Compile every variant of a config: none depends on M."""
        del ms
        device = current_device()
        if device is None:
            return
        plan = self.plan(_checked(config), device.arch, device.name)
        for launcher, kinds in plan.launchers().items():
            launcher.warm(*kinds)

    def compile_for(self, config: ProducerConfig, arch: Arch) -> list[CompiledCode]:
        """Give the machine code of every variant of a config."""
        launchers = self.plan(_checked(config), arch).launchers()
        return [launcher.compile_for(arch, *kinds) for launcher, kinds in launchers.items()]

    def declared_variants(self, config: ProducerConfig) -> int:
        """Give how many variants a config has: for aligned rows, and for any strides."""
        del config
        return 2

    @abstractmethod
    def compiled_variants(self) -> int:
        """Count the variants of this process."""

    @abstractmethod
    def plan(self, config: RmsNormQuantizeConfig, arch: Arch, device: str = "") -> NormPlan:
        """Choose tile and variants for a config.

        Args:
            config: What is made.
            arch: Architecture that the code is for.
            device: Name of the device's profile, by which measured tiles are found.
        """


def is_fast(arch: Arch) -> bool:
    """Tell whether device functions may use NVIDIA's approximate 1/x and 1/sqrt(x), corrected."""
    return not interpreting() and arch.sm is not None


def data_kind(config: RmsNormQuantizeConfig, arch: Arch) -> torch.dtype:
    """Give the dtype by which kernels get the data: its own where Triton has pointers to it.

    A view as uint8 costs half a microsecond a call.
    """
    return DATA_DTYPES[config.operand.element] if converts_fp8(arch) else torch.uint8


def operand_constexprs(config: RmsNormQuantizeConfig, arch: Arch) -> dict[str, Any]:
    """Give the compile-time arguments that say what is computed."""
    operand = config.operand
    how = arithmetic(operand, arch, bits=24).how
    return {
        "N": config.n,
        "PADDED_N": config.padded_n,
        "FORMAT": FORMATS[operand.element],
        "HW": converts_fp8(arch),
        "HOW": _ONCE.get(how, how),
        "FAST": is_fast(arch),
        "FMAX": operand.max_value,
        "HAS_UB": operand.scale_ub is not None,
        "POW2": operand.scale_rounding == "pow2",
    }


def is_weight_aligned(weight: torch.Tensor) -> bool:
    """Tell whether a weight [n] begins at a multiple of 16 bytes and has no gaps."""
    return weight.stride(0) == 1 and not weight.data_ptr() & 15


def _bound(
    plan: NormPlan, config: RmsNormQuantizeConfig, device: DeviceProfile
) -> Callable[..., QuantizedTensor]:
    """Give the function that checks its arguments and runs a plan."""
    operand, in_dtype, dtype = config.operand, config.in_dtype, DTYPES[config.in_dtype]
    width, weight_dtype = config.n, DTYPES[config.weight_dtype]
    weight_shape = (width,)
    on_gpu, is_dynamic = device.is_cuda, operand.dynamic
    take, launch, source_of = plan.outputs.take, plan.run, Source.of

    def run(
        x: torch.Tensor,
        weight: torch.Tensor,
        *,
        scale: torch.Tensor | None = None,
        global_scale: torch.Tensor | None = None,
        out: QuantizedTensor | None = None,
    ) -> QuantizedTensor:
        shape, home = x.shape, x.device
        if x.dtype is not dtype or x.is_cuda is not on_gpu or len(shape) != 2 or shape[1] != width:
            require_on(x, device)
            check_matrix(x, width, in_dtype)
        if (
            weight.shape != weight_shape
            or weight.dtype is not weight_dtype
            or weight.device != home
        ):
            check_weight(weight, config, home)
        if not is_dynamic or scale is not None or global_scale is not None:
            check_scales_given(operand, scale, global_scale)
            scale = _given(scale, home, operand)
        made = take(out, shape[0], home)
        launch(source_of(x), weight, made, scale)
        return made

    return run


def _given(
    scale: torch.Tensor | None, device: torch.device, operand: Operand
) -> torch.Tensor | None:
    """Give a scale as fp32 [1]; on a GPU its value is not looked at, as that would wait for it."""
    if scale is None or device.type == "cuda":
        return scale if scale is None else check_scalar(scale, "scale", device)
    pow2 = operand.scale_rounding == "pow2"
    return check_given_scale(scale, "scale", device, pow2=pow2)


def _checked(config: ProducerConfig) -> RmsNormQuantizeConfig:
    if not isinstance(config, RmsNormQuantizeConfig):
        raise ConfigError(f"a kernel of rmsnorm_quantize was given {type(config).__name__}")
    return config
