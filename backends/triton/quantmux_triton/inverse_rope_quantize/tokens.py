"""triton/inverse_rope_quantize: heads rotated back and quantized, one launch, any token count."""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.config import InverseRopeQuantizeConfig
from quantmux.errors import ConfigError
from quantmux.ops.quantized import DTYPES
from quantmux_triton.arithmetic import arithmetic, converts_fp8
from quantmux_triton.inverse_rope_quantize.inputs import are_plainly_right, check_inputs
from quantmux_triton.inverse_rope_quantize.outputs import GroupedOutputs
from quantmux_triton.inverse_rope_quantize.tokens_config import Tile, tile
from quantmux_triton.inverse_rope_quantize.tokens_kernel import inverse_rope_kernel
from quantmux_triton.quantize.outputs import require_on
from quantmux_triton.quantize.producer import as_bytes
from quantmux_triton.quantize.variants import Variants, current_device, has_pdl
from quantmux_triton.silu_mul_quantize.scale_host import scales_multiplied

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.arch import Arch
    from quantmux.capability.device import DeviceProfile
    from quantmux.config.layers import ProducerConfig
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux.registry.protocol import CompiledCode
    from quantmux_triton.launcher import Launcher

_ROTATED_BITS: Final = 24
_VARIANTS: Final = Variants(inverse_rope_kernel)


class TokensPlan:
    """A config on an architecture: its launchers and what their arguments are made of.

    Args:
        config: What is made.
        arch: Where.
        device: Name of the device's profile, by which measured tiles are found.
        size: What one program takes; None takes `tile`.
        pdl: Programmatic dependent launch; None is wherever it exists.

    Attributes:
        outputs: Makes or checks the results.
        aligned: Launches where every head of o and every row of the cache begins at a multiple of
            16 bytes.
        any_strides: Launches elsewhere.
    """

    def __init__(
        self,
        config: InverseRopeQuantizeConfig,
        arch: Arch,
        device: str = "",
        *,
        size: Tile | None = None,
        pdl: bool | None = None,
    ) -> None:
        operand, width = config.operand, config.operand.block.cols
        self._config = config
        self._tile = size or tile(
            config.heads, config.head_dim, width, config.layout.scales, device
        )
        self._bounds = (operand.eps, operand.scale_ub or 0.0)
        self._store = gcd(width, 16)
        self._data_kind = torch.float8_e4m3fn if converts_fp8(arch) else torch.uint8
        self.outputs = GroupedOutputs(config)
        how = arithmetic(operand, arch, bits=_ROTATED_BITS)
        uses_pdl = has_pdl(arch) if pdl is None else pdl

        def variant(*, aligned: bool) -> Launcher:
            constexprs = {
                "H": config.heads,
                "D": config.head_dim,
                "ROPE": config.rope_dim,
                "GROUPS": config.groups,
                "GROUP": width,
                "TOKENS": self._tile.tokens,
                "HEADS": self._tile.heads,
                "PACKED": config.layout.scales == "packed_pow2",
                "FORMAT": how.format,
                "HW": how.hw,
                "HOW": how.how,
                "FMAX": operand.max_value,
                "HAS_UB": operand.scale_ub is not None,
                "MULTIPLIED": scales_multiplied(operand, arch),
                "ALIGNED": aligned,
                "STORE": self._store if aligned else 1,
                "PDL": uses_pdl,
            }
            warps = self._tile.num_warps
            return _VARIANTS.get(arch, config.in_dtype, constexprs, num_warps=warps, pdl=uses_pdl)

        self.aligned = variant(aligned=True)
        self.any_strides = variant(aligned=False)

    def kinds(self) -> tuple[Any, ...]:
        """Give arguments of the kinds of a launch's, dtypes for tensors."""
        is_packed = self._config.layout.scales == "packed_pow2"
        return (
            DTYPES[self._config.in_dtype],
            torch.int64,
            torch.float32,
            self._data_kind,
            torch.int32 if is_packed else torch.float32,
            *(1,) * 9,
            1.0,
            1.0,
        )

    def run(
        self,
        o: torch.Tensor,
        positions: torch.Tensor,
        cache: torch.Tensor,
        out: QuantizedTensor,
    ) -> None:
        """Launch once; nothing for no tokens."""
        t, heads, _ = o.shape
        if t == 0:
            return
        token_stride, head_stride, column_stride = o.stride()
        if t == 1:
            token_stride = 0  # the stride of a single token says nothing
        if heads == 1:
            head_stride = 0
        cache_row, cache_column = cache.stride()
        of_o = o.data_ptr() | (token_stride | head_stride) * o.element_size()
        of_cache = cache.data_ptr() | cache_row * 4
        is_aligned = column_stride == 1 and cache_column == 1 and (of_o | of_cache) % 16 == 0
        data = as_bytes(out) if self._data_kind is torch.uint8 else out.data
        is_aligned = is_aligned and data.data_ptr() % self._store == 0
        size = self._tile
        ld = -(-t // 4) * 4
        (self.aligned if is_aligned else self.any_strides)(
            (-(-ld // size.tokens) * -(-heads // size.heads),),
            o,
            positions,
            cache,
            data,
            out.scales,
            t,
            ld,
            token_stride,
            head_stride,
            column_stride,
            positions.stride(0),
            cache.shape[0],
            cache_row,
            cache_column,
            *self._bounds,
        )


class InverseRopeQuantize:
    """The kernel; see `quantmux.registry.protocol.Producer`."""

    def bind(self, config: ProducerConfig, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        """Give ``fn(o, positions, cos_sin_cache, *, out=None)`` for o [T, heads, head_dim].

        Any strides are read; 16 bytes at a time where every head of o and every row of the cache
        begins at a multiple of 16 bytes. Nothing is read back, so positions are not checked: one
        outside of the cache gives its token NaN scales in the rotated groups.

        Raises:
            ConfigError: The config is of another op.
        """
        own = _checked(config)
        plan = self.plan(own, device.arch, device.name)
        on_gpu, dtype = device.is_cuda, DTYPES[own.in_dtype]
        take, launch = plan.outputs.take, plan.run

        def run(
            o: torch.Tensor,
            positions: torch.Tensor,
            cos_sin_cache: torch.Tensor,
            *,
            out: QuantizedTensor | None = None,
        ) -> QuantizedTensor:
            if o.is_cuda is not on_gpu or not are_plainly_right(
                o, positions, cos_sin_cache, own, dtype
            ):
                require_on(o, device)
                check_inputs(o, positions, cos_sin_cache, own)
            made = take(out, o.shape[0], o.device)
            launch(o, positions, cos_sin_cache, made)
            return made

        return run

    def warmup(self, config: ProducerConfig, ms: Sequence[int]) -> None:
        """Compile both variants of a config: neither depends on the number of tokens."""
        del ms
        device = current_device()
        if device is None:
            return
        plan = self.plan(_checked(config), device.arch, device.name)
        for launcher in (plan.aligned, plan.any_strides):
            launcher.warm(*plan.kinds())

    def compile_for(self, config: ProducerConfig, arch: Arch) -> list[CompiledCode]:
        """Give the machine code of both variants of a config."""
        plan = self.plan(_checked(config), arch)
        return [
            launcher.compile_for(arch, *plan.kinds())
            for launcher in (plan.aligned, plan.any_strides)
        ]

    def compiled_variants(self) -> int:
        """Count the variants of this process."""
        return _VARIANTS.compiled()

    def declared_variants(self, config: ProducerConfig) -> int:
        """Give how many variants a config has: for aligned rows, and for any strides."""
        del config
        return 2

    def plan(self, config: InverseRopeQuantizeConfig, arch: Arch, device: str = "") -> TokensPlan:
        """Choose tile and variants for a config.

        Args:
            config: What is made.
            arch: Architecture that the code is for.
            device: Name of the device's profile, by which measured tiles are found.
        """
        return TokensPlan(config, arch, device)


def _checked(config: ProducerConfig) -> InverseRopeQuantizeConfig:
    if not isinstance(config, InverseRopeQuantizeConfig):
        raise ConfigError(f"a kernel of inverse_rope_quantize was given {type(config).__name__}")
    return config


kernel: Final = InverseRopeQuantize()
