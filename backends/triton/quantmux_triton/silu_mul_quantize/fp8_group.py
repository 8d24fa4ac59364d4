"""triton/silu_mul_quantize_fp8_group: silu(gate) · up into fp8 with a scale per group."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.config import SiluMulQuantizeConfig
from quantmux.errors import ConfigError
from quantmux.ops.checks import check_matrix, check_scales_given
from quantmux.ops.quantized import DTYPES
from quantmux_triton.arithmetic import FORMATS, converts_fp8
from quantmux_triton.quantize.outputs import Outputs, require_on
from quantmux_triton.quantize.variants import Variants, arch_here, has_pdl
from quantmux_triton.silu_mul_quantize.fp8_group_config import tiles
from quantmux_triton.silu_mul_quantize.fp8_group_kernel import silu_mul_fp8_group_kernel
from quantmux_triton.silu_mul_quantize.silu_host import has_fast_silu

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.arch import Arch
    from quantmux.capability.device import DeviceProfile
    from quantmux.config.layers import ProducerConfig
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux.registry.protocol import CompiledCode
    from quantmux_triton.launcher import Launcher
    from quantmux_triton.quantize.fp8_group_config import Tile, Tiles

_LAYOUTS: Final = {"row_major": 0, "col_major": 1, "col_major_aligned4": 1, "packed_pow2": 2}


@dataclass(frozen=True, slots=True)
class _Plan:
    """A config on an architecture: its launchers and what their arguments are made of."""

    outputs: Outputs
    tiles: Tiles
    few: Launcher
    many: Launcher
    any_strides: Launcher
    half_aligned: bool
    eps: float
    scale_ub: float
    store: int


class SiluMulFp8Group:
    """The kernel; see `quantmux.registry.protocol.Producer`."""

    def __init__(self) -> None:
        self._variants = Variants(silu_mul_fp8_group_kernel)

    def bind(self, config: ProducerConfig, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        """Give ``fn(x, *, scale=None, global_scale=None, out=None)`` for x [M, 2n] of any strides.

        Rows whose halves begin at multiples of 16 bytes and have no gaps between columns are read
        16 bytes at a time, others element by element.

        Raises:
            ConfigError: The config is of another op.
        """
        plan = self._plan(config, device.arch)
        operand, in_dtype, width = config.operand, config.in_dtype, 2 * config.n

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
            m = x.shape[0]
            made = plan.outputs.take(out, m, x.device)
            if m:
                _launch(plan, x, made, m)
            return made

        return run

    def warmup(self, config: ProducerConfig, ms: Sequence[int]) -> None:
        """Compile every variant of a config: none depends on M."""
        del ms
        arch = arch_here()
        if arch is None:
            return
        plan = self._plan(config, arch)
        for launcher in dict.fromkeys((plan.few, plan.many, plan.any_strides)):
            launcher.warm(*_kinds(config, plan))

    def compile_for(self, config: ProducerConfig, arch: Arch) -> list[CompiledCode]:
        """Give the machine code of every variant of a config."""
        plan = self._plan(config, arch)
        launchers = dict.fromkeys((plan.few, plan.many, plan.any_strides))
        return [launcher.compile_for(arch, *_kinds(config, plan)) for launcher in launchers]

    def compiled_variants(self) -> int:
        """Count the variants of this process."""
        return len(self._variants)

    def declared_variants(self, config: ProducerConfig) -> int:
        """Give how many variants a config has: for few groups, for many, and for any strides."""
        del config
        return 3

    def _plan(
        self,
        config: ProducerConfig,
        arch: Arch,
        *,
        pdl: bool | None = None,
        sizes: Tiles | None = None,
        fast: bool | None = None,
    ) -> _Plan:
        if not isinstance(config, SiluMulQuantizeConfig):
            raise ConfigError(f"a kernel of silu_mul_quantize was given {type(config).__name__}")
        operand, layout = config.operand, config.layout
        outputs = Outputs(operand, layout, config.n)
        sizes = sizes or tiles(outputs.groups, operand.block.cols, by_column=outputs.column > 0)
        uses_pdl = has_pdl(arch) if pdl is None else pdl
        store = gcd(layout.padded_n, 16)
        shared = {
            "N": config.n,
            "PADDED_N": config.padded_n,
            "G": operand.block.cols,
            "LAYOUT": _LAYOUTS[layout.scales],
            "FORMAT": FORMATS[operand.element],
            "HW": converts_fp8(arch),
            "FAST_SILU": has_fast_silu(arch) if fast is None else fast,
            "FMAX": operand.max_value,
            "HAS_UB": operand.scale_ub is not None,
            "POW2": operand.scale_rounding == "pow2",
            "PDL": uses_pdl,
        }

        def variant(tile: Tile, *, aligned: bool) -> Launcher:
            constexprs = {
                **shared,
                "ROWS": tile.rows,
                "TILE": tile.groups,
                "ALIGNED": aligned,
                "STORE": store if aligned else 1,
            }
            return self._variants.get(
                arch, config.in_dtype, constexprs, num_warps=tile.num_warps, pdl=uses_pdl
            )

        return _Plan(
            outputs=outputs,
            tiles=sizes,
            few=variant(sizes.few, aligned=True),
            many=variant(sizes.many, aligned=True),
            any_strides=variant(sizes.many, aligned=False),
            half_aligned=config.n * DTYPES[config.in_dtype].itemsize % 16 == 0,
            eps=operand.eps,
            scale_ub=operand.scale_ub or 0.0,
            store=store,
        )


def _launch(plan: _Plan, x: torch.Tensor, made: QuantizedTensor, m: int) -> None:
    padded_m, column = plan.outputs.rows(m)
    row_stride, column_stride = x.stride()
    if m == 1:
        row_stride = 0  # a stride along one row says nothing
    address = x.data_ptr() | (row_stride * x.element_size())
    is_aligned = plan.half_aligned and column_stride == 1 and address % 16 == 0
    if not is_aligned or made.data.data_ptr() % plan.store:
        launcher, tile = plan.any_strides, plan.tiles.many
    elif m * plan.outputs.groups < plan.tiles.limit:
        launcher, tile = plan.few, plan.tiles.few
    else:
        launcher, tile = plan.many, plan.tiles.many
    down = -(-max(padded_m, column) // tile.rows)
    across = -(-plan.outputs.groups // tile.groups)
    launcher(
        (down * across,),
        x,
        made.data.view(torch.uint8),
        made.scales,
        m,
        padded_m,
        column,
        row_stride,
        column_stride,
        plan.eps,
        plan.scale_ub,
    )


def _kinds(config: ProducerConfig, plan: _Plan) -> tuple[Any, ...]:
    """Give arguments of the kinds of a launch's."""
    is_packed = config.layout.scales == "packed_pow2"
    scales = torch.int32 if is_packed else torch.float32
    integers = (1, 1, 1, 1, 1)
    return (DTYPES[config.in_dtype], torch.uint8, scales, *integers, plan.eps, plan.scale_ub)


kernel: Final = SiluMulFp8Group()
