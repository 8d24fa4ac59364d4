"""What the SiLU·mul kernels have in common: checks, variants, machine code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from quantmux.config import SiluMulQuantizeConfig
from quantmux.errors import ConfigError
from quantmux.ops.checks import (
    check_given_scale,
    check_matrix,
    check_scalar,
    check_scales_given,
)
from quantmux_triton.arithmetic import FORMATS, converts_fp8
from quantmux_triton.interpreter import interpreting
from quantmux_triton.quantize.outputs import require_on
from quantmux_triton.quantize.producer import Plan, Source
from quantmux_triton.quantize.variants import arch_here

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

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
        plan = self.plan(_checked(config), device.arch)
        operand, in_dtype, width = config.operand, config.in_dtype, 2 * config.n
        is_pow2 = operand.scale_rounding == "pow2"

        def run(
            x: torch.Tensor,
            *,
            scale: torch.Tensor | None = None,
            global_scale: torch.Tensor | None = None,
            out: QuantizedTensor | None = None,
        ) -> QuantizedTensor:
            require_on(x, device)
            check_matrix(x, width, in_dtype)
            check_scales_given(operand, scale, global_scale)
            if scale is not None and x.is_cuda:
                scale = check_scalar(scale, "scale", x.device)
            elif scale is not None:
                scale = check_given_scale(scale, "scale", x.device, pow2=is_pow2)
            made = plan.outputs.take(out, x.shape[0], x.device)
            plan.run(Source.of(x), made, scale)
            return made

        return run

    def warmup(self, config: ProducerConfig, ms: Sequence[int]) -> None:
        """Compile every variant of a config: none depends on M."""
        del ms
        arch = arch_here()
        if arch is None:
            return
        for launcher, kinds in self.plan(_checked(config), arch).launchers().items():
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
    def plan(self, config: SiluMulQuantizeConfig, arch: Arch) -> Plan:
        """Choose tiles and variants for a config."""


def has_fast_silu(arch: Arch) -> bool:
    """Tell whether the device function may use NVIDIA's instructions for 2^x and 1/x."""
    return not interpreting() and arch.sm is not None


def halves_aligned(config: SiluMulQuantizeConfig, itemsize: int) -> bool:
    """Tell whether the ups begin at a multiple of 16 bytes where the gates do."""
    return config.n * itemsize % 16 == 0


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
