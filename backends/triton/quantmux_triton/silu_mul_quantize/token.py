"""triton/silu_mul_quantize_token: silu(gate) · up into fp8 or int8 with a scale a row."""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.ops.quantized import DTYPES
from quantmux_triton.quantize.outputs import Outputs
from quantmux_triton.quantize.producer import Plan, Source, as_bytes
from quantmux_triton.quantize.variants import Variants, has_pdl
from quantmux_triton.silu_mul_quantize.producer import (
    SiluMulKernel,
    data_kind,
    halves_aligned,
    operand_constexprs,
)
from quantmux_triton.silu_mul_quantize.token_config import row_tile
from quantmux_triton.silu_mul_quantize.token_kernel import silu_mul_token_kernel

if TYPE_CHECKING:
    from quantmux.capability.arch import Arch
    from quantmux.config import SiluMulQuantizeConfig
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux_triton.launcher import Launcher
    from quantmux_triton.silu_mul_quantize.token_config import RowTile

_VARIANTS: Final = Variants(silu_mul_token_kernel)


class SiluTokenPlan(Plan):
    """A config on an architecture.

    Args:
        config: What is made.
        arch: Where.
        tile: What one program takes; None takes `row_tile`.
        pdl: Programmatic dependent launch; None is wherever it exists.
    """

    def __init__(
        self,
        config: SiluMulQuantizeConfig,
        arch: Arch,
        *,
        tile: RowTile | None = None,
        pdl: bool | None = None,
    ) -> None:
        self.outputs = Outputs(config.operand, config.layout, config.n)
        self._config = config
        self._bounds = (config.operand.eps, config.operand.scale_ub or 0.0)
        self._tile = tile or row_tile(config.padded_n)
        self._halves_aligned = halves_aligned(config)
        self._data_kind = data_kind(config, arch)
        self._store = gcd(config.padded_n, 16)
        uses_pdl = has_pdl(arch) if pdl is None else pdl

        def variant(*, aligned: bool) -> Launcher:
            constexprs = {
                **operand_constexprs(config, arch),
                "ROWS": self._tile.rows,
                "BLOCK": self._tile.block,
                "ALIGNED": aligned,
                "STORE": self._store if aligned else 1,
                "PDL": uses_pdl,
            }
            warps = self._tile.num_warps
            return _VARIANTS.get(arch, config.in_dtype, constexprs, num_warps=warps, pdl=uses_pdl)

        self._aligned = variant(aligned=True)
        self._any_strides = variant(aligned=False)

    def launchers(self) -> dict[Launcher, tuple[Any, ...]]:
        """Give every variant with arguments of the kinds of a launch's."""
        x = DTYPES[self._config.in_dtype]
        kinds = (x, self._data_kind, torch.float32, 1, 1, 1, 1, 1.0, 1.0)
        return {self._aligned: kinds, self._any_strides: kinds}

    def run(self, source: Source, out: QuantizedTensor, scale: torch.Tensor | None) -> None:
        """Launch once; nothing for no rows."""
        del scale
        x, m, row_stride, column_stride, is_aligned = source
        if m == 0:
            return
        data = as_bytes(out) if self._data_kind is torch.uint8 else out.data
        is_aligned = is_aligned and self._halves_aligned and data.data_ptr() % self._store == 0
        padded_m, _ = self.outputs.rows(m)
        (self._aligned if is_aligned else self._any_strides)(
            (-(-padded_m // self._tile.rows),),
            x,
            data,
            out.scales,
            m,
            padded_m,
            row_stride,
            column_stride,
            *self._bounds,
        )


class SiluMulToken(SiluMulKernel):
    """fp8 and int8 with a scale a row: variants for aligned rows and for any strides."""

    variants_of_a_config = 2

    def compiled_variants(self) -> int:
        """Count the variants of this process."""
        return _VARIANTS.compiled()

    def plan(self, config: SiluMulQuantizeConfig, arch: Arch, device: str = "") -> SiluTokenPlan:
        """Choose tile and variants for a config; nothing measured is looked up."""
        del device
        return SiluTokenPlan(config, arch)


kernel: Final = SiluMulToken()
