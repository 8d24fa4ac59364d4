"""triton/silu_mul_quantize_fp8_group: silu(gate) · up into fp8 with a scale per group."""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from quantmux.config import SiluMulQuantizeConfig
from quantmux.ops.quantized import DTYPES
from quantmux_triton.quantize.outputs import Outputs
from quantmux_triton.quantize.producer import Plan, Source, as_bytes
from quantmux_triton.quantize.variants import Variants, current_device, has_pdl
from quantmux_triton.silu_mul_quantize.fp8_group_config import Tile, tile_ranges
from quantmux_triton.silu_mul_quantize.fp8_group_kernel import silu_mul_fp8_group_kernel
from quantmux_triton.silu_mul_quantize.producer import (
    SiluMulKernel,
    data_kind,
    halves_aligned,
    operand_constexprs,
)
from quantmux_triton.silu_mul_quantize.scale_host import scales_multiplied
from quantmux_triton.tuned import NO_END

if TYPE_CHECKING:
    from quantmux.capability.arch import Arch
    from quantmux.config.layers import ProducerConfig
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux_triton.launcher import Launcher

_LAYOUTS: Final = {"row_major": 0, "col_major": 1, "col_major_aligned4": 1, "packed_pow2": 2}
_VARIANTS: Final = Variants(silu_mul_fp8_group_kernel)


class SiluGroupPlan(Plan):
    """A config on an architecture.

    Args:
        config: What is made.
        arch: Where.
        device: Name of the device's profile, by which measured tiles are found.
        tile: The one tile to take; None takes those of `tile_ranges`.
        pdl: Programmatic dependent launch; None is wherever it exists.
        fast: The GPU's instructions for 2^x and 1/x; None is wherever they exist.
    """

    def __init__(
        self,
        config: SiluMulQuantizeConfig,
        arch: Arch,
        device: str = "",
        *,
        tile: Tile | None = None,
        pdl: bool | None = None,
        fast: bool | None = None,
    ) -> None:
        operand, layout = config.operand, config.layout
        self.outputs = Outputs(operand, layout, config.n)
        self._config = config
        self._bounds = (operand.eps, operand.scale_ub or 0.0)
        self._halves_aligned = halves_aligned(config)
        self._store = gcd(layout.padded_n, 16)
        self._data_kind = data_kind(config, arch)
        uses_pdl = has_pdl(arch) if pdl is None else pdl
        fixed = {
            **operand_constexprs(config, arch),
            **({} if fast is None else {"FAST_SILU": fast}),
            "G": operand.block.cols,
            "MULTIPLIED": scales_multiplied(operand, arch),
            "LAYOUT": _LAYOUTS[layout.scales],
            "PDL": uses_pdl,
        }

        def variant(tile: Tile, *, aligned: bool) -> _Variant:
            constexprs = {
                **fixed,
                "ROWS": tile.rows,
                "TILE": tile.groups,
                "ALIGNED": aligned,
                "STORE": self._store if aligned else 1,
            }
            launcher = _VARIANTS.get(
                arch, config.in_dtype, constexprs, num_warps=tile.num_warps, pdl=uses_pdl
            )
            return _Variant(launcher, tile.rows, -(-self.outputs.groups // tile.groups))

        ranges = _ranges(config, device) if tile is None else ((NO_END, tile),)
        self._ranges = tuple((m_max, variant(t, aligned=True)) for m_max, t in ranges)
        self._any_strides = variant(ranges[0][1], aligned=False)

    def launchers(self) -> dict[Launcher, tuple[Any, ...]]:
        """Give every variant with arguments of the kinds of a launch's."""
        is_packed = self._config.layout.scales == "packed_pow2"
        scales = torch.int32 if is_packed else torch.float32
        x = DTYPES[self._config.in_dtype]
        kinds = (x, self._data_kind, scales, 1, 1, 1, 1, 1, 1.0, 1.0)
        variants = (*(variant for _, variant in self._ranges), self._any_strides)
        return {variant.launcher: kinds for variant in variants}

    def run(self, source: Source, out: QuantizedTensor, scale: torch.Tensor | None) -> None:
        """Launch once; nothing for no rows."""
        del scale
        x, m, row_stride, column_stride, is_aligned = source
        if m == 0:
            return
        data = as_bytes(out) if self._data_kind is torch.uint8 else out.data
        variant = self._any_strides
        if is_aligned and self._halves_aligned and data.data_ptr() % self._store == 0:
            for m_max, variant in self._ranges:  # noqa: B007 - the one that the loop ends at
                if m <= m_max:
                    break
        padded_m, column = self.outputs.rows(m)
        variant.launcher(
            (-(-max(padded_m, column) // variant.rows) * variant.across,),
            x,
            data,
            out.scales,
            m,
            padded_m,
            column,
            row_stride,
            column_stride,
            *self._bounds,
        )


class _Variant(NamedTuple):
    """A launcher, the rows of its tile, and the tiles across a row."""

    launcher: Launcher
    rows: int
    across: int


def _ranges(config: SiluMulQuantizeConfig, device: str) -> tuple[tuple[int, Tile], ...]:
    """Give the tiles of a config as (last M, tile)."""
    width = config.operand.block.cols
    groups = config.operand.block.grid(1, config.padded_n)[1]
    return tile_ranges(groups, width, config.layout.scales, device)


class SiluMulFp8Group(SiluMulKernel):
    """fp8 with a scale per group: variants by M, and one for any strides."""

    def declared_variants(self, config: ProducerConfig) -> int:
        """Give how many variants a config has on the device of this process."""
        device = current_device()
        if device is None or not isinstance(config, SiluMulQuantizeConfig):
            return 0
        return len({tile for _, tile in _ranges(config, device.name)}) + 1

    def compiled_variants(self) -> int:
        """Count the variants of this process."""
        return _VARIANTS.compiled()

    def plan(self, config: SiluMulQuantizeConfig, arch: Arch, device: str = "") -> SiluGroupPlan:
        """Choose tiles and variants for a config; see `SiluMulKernel.plan`."""
        return SiluGroupPlan(config, arch, device)


kernel: Final = SiluMulFp8Group()
