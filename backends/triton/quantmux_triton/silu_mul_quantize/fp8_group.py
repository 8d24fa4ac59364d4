"""triton/silu_mul_quantize_fp8_group: silu(gate) · up into fp8 with a scale per group."""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.ops.quantized import DTYPES
from quantmux_triton.quantize.outputs import Outputs
from quantmux_triton.quantize.producer import Plan, Source, as_bytes
from quantmux_triton.quantize.variants import Variants, has_pdl
from quantmux_triton.silu_mul_quantize.fp8_group_config import tiles
from quantmux_triton.silu_mul_quantize.fp8_group_kernel import silu_mul_fp8_group_kernel
from quantmux_triton.silu_mul_quantize.producer import (
    SiluMulKernel,
    halves_aligned,
    operand_constexprs,
)

if TYPE_CHECKING:
    from quantmux.capability.arch import Arch
    from quantmux.config import SiluMulQuantizeConfig
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux_triton.launcher import Launcher
    from quantmux_triton.quantize.fp8_group_config import Tile

_LAYOUTS: Final = {"row_major": 0, "col_major": 1, "col_major_aligned4": 1, "packed_pow2": 2}
_VARIANTS: Final = Variants(silu_mul_fp8_group_kernel)


class SiluGroupPlan(Plan):
    """A config on an architecture.

    Args:
        config: What is made.
        arch: Where.
        few: Tile for little data; None takes the one of `tiles`.
        many: Tile for much data; None takes the one of `tiles`.
        pdl: Programmatic dependent launch; None is wherever it exists.
        fast: The GPU's instructions for 2^x and 1/x; None is wherever they exist.
        stream: The cache may drop first what was read.
    """

    def __init__(
        self,
        config: SiluMulQuantizeConfig,
        arch: Arch,
        *,
        few: Tile | None = None,
        many: Tile | None = None,
        pdl: bool | None = None,
        fast: bool | None = None,
        stream: bool = False,
    ) -> None:
        operand, layout = config.operand, config.layout
        self.outputs = Outputs(operand, layout, config.n)
        chosen = tiles(self.outputs.groups, operand.block.cols, by_column=self.outputs.column > 0)
        self._config = config
        self._halves_aligned = halves_aligned(config, DTYPES[config.in_dtype].itemsize)
        self._limit = chosen.limit
        self._store = gcd(layout.padded_n, 16)
        uses_pdl = has_pdl(arch) if pdl is None else pdl
        shared = {
            **operand_constexprs(config, arch),
            **({} if fast is None else {"FAST_SILU": fast}),
            "G": operand.block.cols,
            "LAYOUT": _LAYOUTS[layout.scales],
            "STREAM": stream,
            "PDL": uses_pdl,
        }

        def variant(tile: Tile, *, aligned: bool) -> tuple[Launcher, Tile]:
            constexprs = {
                **shared,
                "ROWS": tile.rows,
                "TILE": tile.groups,
                "ALIGNED": aligned,
                "STORE": self._store if aligned else 1,
            }
            warps = tile.num_warps
            launcher = _VARIANTS.get(
                arch, config.in_dtype, constexprs, num_warps=warps, pdl=uses_pdl
            )
            return launcher, tile

        self._few = variant(few or chosen.few, aligned=True)
        self._many = variant(many or chosen.many, aligned=True)
        self._any_strides = variant(many or chosen.many, aligned=False)

    def launchers(self) -> dict[Launcher, tuple[Any, ...]]:
        """Give every variant with arguments of the kinds of a launch's."""
        is_packed = self._config.layout.scales == "packed_pow2"
        scales = torch.int32 if is_packed else torch.float32
        kinds = (DTYPES[self._config.in_dtype], torch.uint8, scales, 1, 1, 1, 1, 1, 1.0, 1.0)
        return {launcher: kinds for launcher, _ in (self._few, self._many, self._any_strides)}

    def run(self, source: Source, out: QuantizedTensor, scale: torch.Tensor | None) -> None:
        """Launch once; nothing for no rows."""
        del scale
        m, operand, groups = source.m, self._config.operand, self.outputs.groups
        if m == 0:
            return
        is_aligned = source.is_aligned and self._halves_aligned
        if not is_aligned or out.data.data_ptr() % self._store:
            launcher, tile = self._any_strides
        elif m * groups < self._limit:
            launcher, tile = self._few
        else:
            launcher, tile = self._many
        padded_m, column = self.outputs.rows(m)
        down = -(-max(padded_m, column) // tile.rows)
        across = -(-groups // tile.groups)
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


class SiluMulFp8Group(SiluMulKernel):
    """fp8 with a scale per group: variants for little data, for much, and for any strides."""

    variants_of_a_config = 3

    def compiled_variants(self) -> int:
        """Count the variants of this process."""
        return _VARIANTS.compiled()

    def plan(self, config: SiluMulQuantizeConfig, arch: Arch) -> SiluGroupPlan:
        """Choose tiles and variants for a config."""
        return SiluGroupPlan(config, arch)


kernel: Final = SiluMulFp8Group()
