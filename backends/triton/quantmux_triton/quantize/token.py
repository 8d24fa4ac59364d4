"""triton/quantize_token: rows into fp8 or int8 codes, one scale a row, one launch."""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux_triton.arithmetic import arithmetic
from quantmux_triton.quantize.outputs import Outputs
from quantmux_triton.quantize.producer import (
    SIGNIFICANT_BITS,
    Plan,
    QuantizeKernel,
    Source,
    as_bytes,
    data_kind,
    in_kind,
    operand_constexprs,
)
from quantmux_triton.quantize.token_config import RowTile, row_tile
from quantmux_triton.quantize.token_kernel import token_kernel
from quantmux_triton.quantize.variants import Variants, has_pdl

if TYPE_CHECKING:
    from quantmux.capability.arch import Arch
    from quantmux.config import QuantizeConfig
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux_triton.launcher import Launcher

_VARIANTS: Final = Variants(token_kernel)


class TokenPlan(Plan):
    """A config on an architecture.

    Args:
        config: What is made.
        arch: Where.
        tile: What one program takes; None takes `row_tile`.
        pdl: Programmatic dependent launch; None is wherever it exists.
    """

    def __init__(
        self,
        config: QuantizeConfig,
        arch: Arch,
        *,
        tile: RowTile | None = None,
        pdl: bool | None = None,
    ) -> None:
        self.outputs = Outputs(config.operand, config.layout, config.n)
        self._config = config
        self._tile = tile or row_tile(config.padded_n)
        self._store = gcd(config.padded_n, 16)
        how = arithmetic(config.operand, arch, bits=SIGNIFICANT_BITS[config.in_dtype])
        self._data_kind = data_kind(config, how)
        uses_pdl = has_pdl(arch) if pdl is None else pdl

        def variant(*, aligned: bool) -> Launcher:
            constexprs = {
                **operand_constexprs(config, how),
                "ROWS": self._tile.rows,
                "BLOCK": self._tile.block,
                "ALIGNED": aligned,
                "STORE": self._store if aligned else 1,
                "PDL": uses_pdl,
            }
            warps = self._tile.num_warps
            return _VARIANTS.get(arch, config.in_dtype, constexprs, num_warps=warps, pdl=uses_pdl)

        self._aligned = variant(aligned=True)
        self._any = variant(aligned=False)

    def launchers(self) -> dict[Launcher, tuple[Any, ...]]:
        """Give every variant with arguments of the kinds of a launch's."""
        kinds = (in_kind(self._config), self._data_kind, torch.float32, 1, 1, 1, 1, 1.0, 1.0)
        return {self._aligned: kinds, self._any: kinds}

    def run(self, source: Source, out: QuantizedTensor, scale: torch.Tensor | None) -> None:
        """Launch once; nothing for no rows."""
        del scale
        m, operand = source.m, self._config.operand
        if m == 0:
            return
        is_aligned = source.is_aligned and out.data.data_ptr() % self._store == 0
        launcher = self._aligned if is_aligned else self._any
        padded_m, _ = self.outputs.rows(m)
        launcher(
            (-(-padded_m // self._tile.rows),),
            source.x,
            as_bytes(out) if self._data_kind is torch.uint8 else out.data,
            out.scales,
            m,
            padded_m,
            source.row_stride,
            source.column_stride,
            operand.eps,
            operand.scale_ub or 0.0,
        )


class Token(QuantizeKernel):
    """fp8 and int8 with a scale a row: variants for aligned rows and for any strides."""

    variants_of_a_config = 2

    def compiled_variants(self) -> int:
        """Count the variants of this process."""
        return _VARIANTS.compiled()

    def plan(self, config: QuantizeConfig, arch: Arch, device: str = "") -> TokenPlan:
        """Choose tile and variants for a config; see `QuantizeKernel.plan`."""
        del device
        return TokenPlan(config, arch)


kernel: Final = Token()
