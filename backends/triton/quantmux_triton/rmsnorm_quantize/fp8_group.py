"""triton/rmsnorm_quantize_fp8_group: RMSNorm into fp8 with a scale per group, one launch."""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.ops.quantized import DTYPES
from quantmux_triton.quantize.outputs import Outputs
from quantmux_triton.quantize.producer import Source, as_bytes
from quantmux_triton.quantize.variants import Variants, has_pdl
from quantmux_triton.rmsnorm_quantize.fp8_group_kernel import rmsnorm_fp8_group_kernel
from quantmux_triton.rmsnorm_quantize.producer import (
    NormPlan,
    RmsNormKernel,
    data_kind,
    is_weight_aligned,
    operand_constexprs,
)
from quantmux_triton.rmsnorm_quantize.tiles_config import RowTile, row_tile
from quantmux_triton.silu_mul_quantize.scale_host import scales_multiplied

if TYPE_CHECKING:
    from quantmux.capability.arch import Arch
    from quantmux.config import RmsNormQuantizeConfig
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux_triton.launcher import Launcher

_LAYOUTS: Final = {"row_major": 0, "col_major": 1, "col_major_aligned4": 1, "packed_pow2": 2}
_VARIANTS: Final = Variants(rmsnorm_fp8_group_kernel)


class NormGroupPlan(NormPlan):
    """A config on an architecture.

    Args:
        config: What is made.
        arch: Where.
        tile: What one program takes; None takes `row_tile`.
        pdl: Programmatic dependent launch; None is wherever it exists.
    """

    def __init__(
        self,
        config: RmsNormQuantizeConfig,
        arch: Arch,
        *,
        tile: RowTile | None = None,
        pdl: bool | None = None,
    ) -> None:
        operand, layout = config.operand, config.layout
        width = operand.block.cols
        self.outputs = Outputs(operand, layout, config.n)
        self._config = config
        self._floats = (config.norm_eps, operand.eps, operand.scale_ub or 0.0)
        self._tile = tile or row_tile(config.padded_n, width)
        self._data_kind = data_kind(config, arch)
        self._store = gcd(config.padded_n, 16)
        uses_pdl = has_pdl(arch) if pdl is None else pdl

        def variant(*, aligned: bool) -> Launcher:
            constexprs = {
                **operand_constexprs(config, arch),
                "G": width,
                "ROWS": self._tile.rows,
                "TILE": self._tile.block // width,
                "LAYOUT": _LAYOUTS[layout.scales],
                "MULTIPLIED": scales_multiplied(operand, arch),
                "ALIGNED": aligned,
                "STORE": self._store if aligned else 1,
                "PDL": uses_pdl,
            }
            kinds = f"{config.in_dtype} {config.weight_dtype}"
            warps = self._tile.num_warps
            return _VARIANTS.get(arch, kinds, constexprs, num_warps=warps, pdl=uses_pdl)

        self._aligned = variant(aligned=True)
        self._any_strides = variant(aligned=False)

    def launchers(self) -> dict[Launcher, tuple[Any, ...]]:
        """Give every variant with arguments of the kinds of a launch's."""
        config = self._config
        scales = torch.int32 if config.layout.scales == "packed_pow2" else torch.float32
        tensors = (DTYPES[config.in_dtype], DTYPES[config.weight_dtype], self._data_kind, scales)
        kinds = (*tensors, 1, 1, 1, 1, 1, 1, 1.0, 1.0, 1.0)
        return {self._aligned: kinds, self._any_strides: kinds}

    def run(
        self,
        source: Source,
        weight: torch.Tensor,
        out: QuantizedTensor,
        scale: torch.Tensor | None,
    ) -> None:
        """Launch once; nothing for no rows."""
        del scale
        x, m, row_stride, column_stride, is_aligned = source
        if m == 0:
            return
        data = as_bytes(out) if self._data_kind is torch.uint8 else out.data
        is_aligned = is_aligned and is_weight_aligned(weight) and data.data_ptr() % self._store == 0
        padded_m, column = self.outputs.rows(m)
        (self._aligned if is_aligned else self._any_strides)(
            (-(-max(padded_m, column) // self._tile.rows),),
            x,
            weight,
            data,
            out.scales,
            m,
            padded_m,
            column,
            row_stride,
            column_stride,
            weight.stride(0),
            *self._floats,
        )


class RmsNormFp8Group(RmsNormKernel):
    """fp8 with a scale per group: variants for aligned rows and for any strides."""

    def compiled_variants(self) -> int:
        """Count the variants of this process."""
        return _VARIANTS.compiled()

    def plan(self, config: RmsNormQuantizeConfig, arch: Arch, device: str = "") -> NormGroupPlan:
        """Choose tile and variants for a config; nothing measured is looked up."""
        del device
        return NormGroupPlan(config, arch)


kernel: Final = RmsNormFp8Group()
