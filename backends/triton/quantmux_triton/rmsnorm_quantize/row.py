"""triton/rmsnorm_quantize_token and _tensor_static: RMSNorm with a scale a row, or a given one."""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.ops.quantized import DTYPES
from quantmux_triton.quantize.outputs import Outputs
from quantmux_triton.quantize.producer import Source, as_bytes
from quantmux_triton.quantize.variants import Variants, has_pdl
from quantmux_triton.rmsnorm_quantize.producer import (
    NormPlan,
    RmsNormKernel,
    data_kind,
    is_weight_aligned,
    operand_constexprs,
)
from quantmux_triton.rmsnorm_quantize.row_kernel import rmsnorm_row_kernel
from quantmux_triton.rmsnorm_quantize.tiles_config import RowTile, row_tile

if TYPE_CHECKING:
    from quantmux.capability.arch import Arch
    from quantmux.config import RmsNormQuantizeConfig
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux_triton.launcher import Launcher

_VARIANTS: Final = Variants(rmsnorm_row_kernel)


class NormRowPlan(NormPlan):
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
        operand = config.operand
        self.outputs = Outputs(operand, config.layout, config.n)
        self._config = config
        self._floats = (config.norm_eps, operand.eps, operand.scale_ub or 0.0)
        self._tile = tile or row_tile(config.padded_n)
        self._data_kind = data_kind(config, arch)
        self._store = gcd(config.padded_n, 16)
        uses_pdl = has_pdl(arch) if pdl is None else pdl

        def variant(*, aligned: bool) -> Launcher:
            constexprs = {
                **operand_constexprs(config, arch),
                "ROWS": self._tile.rows,
                "BLOCK": self._tile.block,
                "GIVEN": not operand.dynamic,
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
        config, fp32 = self._config, torch.float32
        plain = (DTYPES[config.in_dtype], DTYPES[config.weight_dtype])
        kinds = (*plain, self._data_kind, fp32, fp32, 1, 1, 1, 1, 1, 1.0, 1.0, 1.0)
        return {self._aligned: kinds, self._any_strides: kinds}

    def run(
        self,
        source: Source,
        weight: torch.Tensor,
        out: QuantizedTensor,
        scale: torch.Tensor | None,
    ) -> None:
        """Launch once; for no rows only where there still is the scale to be written."""
        x, m, row_stride, column_stride, is_aligned = source
        if m == 0 and scale is None:
            return
        data = as_bytes(out) if self._data_kind is torch.uint8 else out.data
        is_aligned = is_aligned and is_weight_aligned(weight) and data.data_ptr() % self._store == 0
        padded_m, _ = self.outputs.rows(m)
        scales = out.scales
        (self._aligned if is_aligned else self._any_strides)(
            (max(1, -(-padded_m // self._tile.rows)),),
            x,
            weight,
            data,
            scales,
            scales if scale is None else scale,
            m,
            padded_m,
            row_stride,
            column_stride,
            weight.stride(0),
            *self._floats,
        )


class RmsNormRow(RmsNormKernel):
    """fp8 and int8 with one scale a row, or one that is given; two variants each."""

    def compiled_variants(self) -> int:
        """Count the variants of this process."""
        return _VARIANTS.compiled()

    def plan(self, config: RmsNormQuantizeConfig, arch: Arch, device: str = "") -> NormRowPlan:
        """Choose tile and variants for a config; nothing measured is looked up."""
        del device
        return NormRowPlan(config, arch)


kernel: Final = RmsNormRow()
