"""triton/quantize_fp8_group: rows into fp8 codes, one scale per group of columns, one launch."""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux_triton.arithmetic import arithmetic
from quantmux_triton.quantize.fp8_group_config import Tile, tiles
from quantmux_triton.quantize.fp8_group_kernel import fp8_group_kernel
from quantmux_triton.quantize.outputs import Outputs
from quantmux_triton.quantize.producer import (
    SIGNIFICANT_BITS,
    Plan,
    QuantizeKernel,
    Source,
    as_bytes,
    in_kind,
    operand_constexprs,
)
from quantmux_triton.quantize.variants import Variants, has_pdl

if TYPE_CHECKING:
    from quantmux.capability.arch import Arch
    from quantmux.config import QuantizeConfig
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux_triton.launcher import Launcher

_LAYOUTS: Final = {"row_major": 0, "col_major": 1, "col_major_aligned4": 1, "packed_pow2": 2}
_VARIANTS: Final = Variants(fp8_group_kernel)


class GroupPlan(Plan):
    """A config on an architecture.

    Args:
        config: What is made.
        arch: Where.
        few: Tile for little data; None takes the one of `tiles`.
        many: Tile for much data; None takes the one of `tiles`.
        pdl: Programmatic dependent launch; None is wherever it exists.
    """

    def __init__(
        self,
        config: QuantizeConfig,
        arch: Arch,
        *,
        few: Tile | None = None,
        many: Tile | None = None,
        pdl: bool | None = None,
    ) -> None:
        operand, layout = config.operand, config.layout
        self.outputs = Outputs(operand, layout, config.n)
        chosen = tiles(self.outputs.groups, operand.block.cols, by_column=self.outputs.column > 0)
        self._config = config
        self._limit = chosen.limit
        self._store = gcd(layout.padded_n, 16)
        how = arithmetic(operand, arch, bits=SIGNIFICANT_BITS[config.in_dtype])
        uses_pdl = has_pdl(arch) if pdl is None else pdl
        fixed = {
            **operand_constexprs(config, how),
            "G": operand.block.cols,
            "LAYOUT": _LAYOUTS[layout.scales],
            "PDL": uses_pdl,
        }

        def variant(tile: Tile, *, aligned: bool) -> tuple[Launcher, Tile]:
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
            return launcher, tile

        self._few = variant(few or chosen.few, aligned=True)
        self._many = variant(many or chosen.many, aligned=True)
        self._any = variant(chosen.few, aligned=False)

    def launchers(self) -> dict[Launcher, tuple[Any, ...]]:
        """Give every variant with arguments of the kinds of a launch's."""
        is_packed = self._config.layout.scales == "packed_pow2"
        scales = torch.int32 if is_packed else torch.float32
        kinds = (in_kind(self._config), torch.uint8, scales, 1, 1, 1, 1, 1, 1.0, 1.0)
        return {launcher: kinds for launcher, _ in (self._few, self._many, self._any)}

    def run(self, source: Source, out: QuantizedTensor, scale: torch.Tensor | None) -> None:
        """Launch once; nothing for no rows."""
        del scale
        m, operand, outputs = source.m, self._config.operand, self.outputs
        if m == 0:
            return
        if not source.is_aligned or out.data.data_ptr() % self._store:
            launcher, tile = self._any
        else:
            launcher, tile = self._few if m * outputs.groups < self._limit else self._many
        padded_m, column = outputs.rows(m)
        down = -(-max(padded_m, column) // tile.rows)
        across = -(-outputs.groups // tile.groups)
        launcher(
            (down * across,),
            source.x,
            as_bytes(out),
            out.scales,
            m,
            padded_m,
            column,
            source.row_stride,
            source.column_stride,
            operand.eps,
            operand.scale_ub or 0.0,
        )


class Fp8Group(QuantizeKernel):
    """fp8 with a scale per group of columns: variants for few groups, for many, for any strides."""

    variants_of_a_config = 3

    def compiled_variants(self) -> int:
        """Count the variants of this process."""
        return _VARIANTS.compiled()

    def plan(self, config: QuantizeConfig, arch: Arch) -> GroupPlan:
        """Choose tiles and variants for a config."""
        return GroupPlan(config, arch)


kernel: Final = Fp8Group()
