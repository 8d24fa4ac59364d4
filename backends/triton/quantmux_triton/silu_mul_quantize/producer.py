"""What the SiLU·mul kernels have in common: checks, variants, machine code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch

from quantmux.config import SiluMulQuantizeConfig
from quantmux.errors import ConfigError
from quantmux.ops.quantized import DATA_DTYPES, DTYPES
from quantmux_triton.arithmetic import FORMATS, converts_fp8
from quantmux_triton.interpreter import interpreting
from quantmux_triton.quantize.producer import Plan, bound
from quantmux_triton.quantize.variants import current_device

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.arch import Arch
    from quantmux.capability.device import DeviceProfile
    from quantmux.config.layers import ProducerConfig
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux.registry.protocol import CompiledCode


class SiluMulKernel(ABC):
    """A kernel of ``silu_mul_quantize``; see `quantmux.registry.protocol.Producer`."""

    variants_of_a_config: int

    def bind(self, config: ProducerConfig, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        """Give ``fn(x, *, scale=None, global_scale=None, out=None)`` for x [M, 2n] of any strides.

        Where the halves of every row begin at multiples of 16 bytes and have no gaps between
        columns, they are read 16 bytes at a time, else element by element. On a GPU the value of a
        given scale is not looked at, as that would wait for it.

        Raises:
            ConfigError: The config is of another op.
        """
        asked = _checked(config)
        return bound(self.plan(asked, device.arch, device.name), asked, 2 * asked.n, device)

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
        """Give how many variants a config has at most."""
        del config
        return self.variants_of_a_config

    @abstractmethod
    def compiled_variants(self) -> int:
        """Count the variants of this process."""

    @abstractmethod
    def plan(self, config: SiluMulQuantizeConfig, arch: Arch, device: str = "") -> Plan:
        """Choose tiles and variants for a config.

        Args:
            config: What is made.
            arch: Architecture that the code is for.
            device: Name of the device's profile, by which measured tiles are found.
        """


def has_fast_silu(arch: Arch) -> bool:
    """Tell whether the device function may use NVIDIA's instructions for 2^x and 1/x."""
    return not interpreting() and arch.sm is not None


def halves_aligned(config: SiluMulQuantizeConfig) -> bool:
    """Tell whether the ups begin at a multiple of 16 bytes where the gates do."""
    return config.n * DTYPES[config.in_dtype].itemsize % 16 == 0


def data_kind(config: SiluMulQuantizeConfig, arch: Arch) -> torch.dtype:
    """Give the dtype by which kernels get the data: its own where Triton has pointers to it.

    A view as uint8 costs half a microsecond a call.
    """
    return DATA_DTYPES[config.operand.element] if converts_fp8(arch) else torch.uint8


def operand_constexprs(config: SiluMulQuantizeConfig, arch: Arch) -> dict[str, Any]:
    """Give the compile-time arguments that say what is computed."""
    operand = config.operand
    return {
        "N": config.n,
        "PADDED_N": config.padded_n,
        "FORMAT": FORMATS[operand.element],
        "HW": converts_fp8(arch),
        "FAST_SILU": has_fast_silu(arch),
        "FMAX": operand.max_value,
        "HAS_UB": operand.scale_ub is not None,
        "POW2": operand.scale_rounding == "pow2",
    }


def _checked(config: ProducerConfig) -> SiluMulQuantizeConfig:
    if not isinstance(config, SiluMulQuantizeConfig):
        raise ConfigError(f"a kernel of silu_mul_quantize was given {type(config).__name__}")
    return config
