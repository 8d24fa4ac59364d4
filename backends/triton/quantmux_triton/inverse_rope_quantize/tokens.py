"""triton/inverse_rope_quantize: heads rotated back and quantized, one launch, one variant."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.config import InverseRopeQuantizeConfig
from quantmux.errors import ConfigError
from quantmux.ops.quantized import DTYPES
from quantmux_triton.arithmetic import arithmetic
from quantmux_triton.inverse_rope_quantize.inputs import check_inputs
from quantmux_triton.inverse_rope_quantize.outputs import GroupedOutputs
from quantmux_triton.inverse_rope_quantize.tokens_config import Tile, tile
from quantmux_triton.inverse_rope_quantize.tokens_kernel import inverse_rope_kernel
from quantmux_triton.quantize.outputs import require_on
from quantmux_triton.quantize.variants import Variants, arch_here, has_pdl

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


@dataclass(frozen=True, slots=True)
class _Plan:
    """A config on an architecture: its launchers and what their arguments are made of."""

    config: InverseRopeQuantizeConfig
    outputs: GroupedOutputs
    tile: Tile
    aligned: Launcher
    any_strides: Launcher
    store: int


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
        plan = self._plan(config, device.arch)

        def run(
            o: torch.Tensor,
            positions: torch.Tensor,
            cos_sin_cache: torch.Tensor,
            *,
            out: QuantizedTensor | None = None,
        ) -> QuantizedTensor:
            require_on(o, device)
            check_inputs(o, positions, cos_sin_cache, plan.config)
            t = o.shape[0]
            made = plan.outputs.take(out, t, o.device)
            if t:
                _launch(plan, o, positions, cos_sin_cache, made, t)
            return made

        return run

    def warmup(self, config: ProducerConfig, ms: Sequence[int]) -> None:
        """Compile both variants of a config: neither depends on the number of tokens."""
        del ms
        arch = arch_here()
        if arch is None:
            return
        plan = self._plan(config, arch)
        for launcher in dict.fromkeys((plan.aligned, plan.any_strides)):
            launcher.warm(*_kinds(plan))

    def compile_for(self, config: ProducerConfig, arch: Arch) -> list[CompiledCode]:
        """Give the machine code of both variants of a config."""
        plan = self._plan(config, arch)
        launchers = dict.fromkeys((plan.aligned, plan.any_strides))
        return [launcher.compile_for(arch, *_kinds(plan)) for launcher in launchers]

    def compiled_variants(self) -> int:
        """Count the variants of this process."""
        return _VARIANTS.compiled()

    def declared_variants(self, config: ProducerConfig) -> int:
        """Give how many variants a config has: for aligned rows, and for any strides."""
        del config
        return 2

    def _plan(
        self,
        config: ProducerConfig,
        arch: Arch,
        *,
        pdl: bool | None = None,
        size: Tile | None = None,
    ) -> _Plan:
        if not isinstance(config, InverseRopeQuantizeConfig):
            raise ConfigError(
                f"a kernel of inverse_rope_quantize was given {type(config).__name__}"
            )
        operand, width = config.operand, config.operand.block.cols
        size = size or tile(config.heads, config.head_dim)
        how = arithmetic(operand, arch, bits=_ROTATED_BITS)
        uses_pdl = has_pdl(arch) if pdl is None else pdl
        is_packed = config.layout.scales == "packed_pow2"
        store = gcd(width, 16)

        def variant(*, aligned: bool) -> Launcher:
            constexprs = {
                "H": config.heads,
                "D": config.head_dim,
                "ROPE": config.rope_dim,
                "GROUPS": config.groups,
                "GROUP": width,
                "TOKENS": size.tokens,
                "HEADS": size.heads,
                "PACKED": is_packed,
                "FORMAT": how.format,
                "HW": how.hw,
                "HOW": how.how,
                "FMAX": operand.max_value,
                "HAS_UB": operand.scale_ub is not None,
                "ALIGNED": aligned,
                "STORE": store if aligned else 1,
                "PDL": uses_pdl,
            }
            return _VARIANTS.get(
                arch, config.in_dtype, constexprs, num_warps=size.num_warps, pdl=uses_pdl
            )

        return _Plan(
            config=config,
            outputs=GroupedOutputs(config),
            tile=size,
            aligned=variant(aligned=True),
            any_strides=variant(aligned=False),
            store=store,
        )


def _launch(
    plan: _Plan,
    o: torch.Tensor,
    positions: torch.Tensor,
    cache: torch.Tensor,
    made: QuantizedTensor,
    t: int,
) -> None:
    config, size = plan.config, plan.tile
    ld = -(-t // 4) * 4
    token_stride, head_stride, column_stride = o.stride()
    cache_row, cache_column = cache.stride()
    if t == 1:
        token_stride = 0  # a stride along one token says nothing
    if config.heads == 1:
        head_stride = 0
    of_o = o.data_ptr() | token_stride * o.element_size() | head_stride * o.element_size()
    of_cache = cache.data_ptr() | cache_row * 4
    is_aligned = column_stride == cache_column == 1 and (of_o | of_cache) % 16 == 0
    is_aligned = is_aligned and made.data.data_ptr() % plan.store == 0
    launcher = plan.aligned if is_aligned else plan.any_strides
    down, across = -(-ld // size.tokens), -(-config.heads // size.heads)
    launcher(
        (down * across,),
        o,
        positions,
        cache,
        made.data.view(torch.uint8),
        made.scales,
        t,
        ld,
        token_stride,
        head_stride,
        column_stride,
        positions.stride(0),
        cache.shape[0],
        cache_row,
        cache_column,
        config.operand.eps,
        config.operand.scale_ub or 0.0,
    )


def _kinds(plan: _Plan) -> tuple[Any, ...]:
    """Give arguments of the kinds of a launch's."""
    operand = plan.config.operand
    is_packed = plan.config.layout.scales == "packed_pow2"
    return (
        DTYPES[plan.config.in_dtype],
        torch.int64,
        torch.float32,
        torch.uint8,
        torch.int32 if is_packed else torch.float32,
        *(1,) * 9,
        operand.eps,
        operand.scale_ub or 0.0,
    )


kernel: Final = InverseRopeQuantize()
