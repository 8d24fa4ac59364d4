"""triton/quantize_tensor and quantize_tensor_static: a matrix into codes with one scale."""

from __future__ import annotations

from dataclasses import replace
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
from quantmux_triton.quantize.tensor_config import PARTS, MatrixTile, matrix_tile
from quantmux_triton.quantize.tensor_kernel import tensor_amax_kernel, tensor_kernel
from quantmux_triton.quantize.variants import Variants, has_pdl

if TYPE_CHECKING:
    from quantmux.capability.arch import Arch
    from quantmux.config import QuantizeConfig
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux_triton.launcher import Launcher

_AMAX: Final = Variants(tensor_amax_kernel)
_CODES: Final = Variants(tensor_kernel)


class TensorPlan(Plan):
    """A config on an architecture.

    Args:
        config: What is made.
        arch: Where.
        tile: What one program takes; None takes `matrix_tile`.
        pdl: Programmatic dependent launch; None is wherever it exists.
        how: How values are divided; None is the fastest form with the definition's bits.
    """

    def __init__(
        self,
        config: QuantizeConfig,
        arch: Arch,
        *,
        tile: MatrixTile | None = None,
        pdl: bool | None = None,
        how: int | None = None,
    ) -> None:
        self.outputs = Outputs(config.operand, config.layout, config.n)
        self._config = config
        self._tile = tile or matrix_tile(config.padded_n)
        self._store = gcd(config.padded_n, 16)
        self._parts = PARTS if config.operand.dynamic else 0
        chosen = arithmetic(config.operand, arch, bits=SIGNIFICANT_BITS[config.in_dtype])
        computed = chosen if how is None else replace(chosen, how=how)
        self._data_kind = data_kind(config, computed)
        uses_pdl = has_pdl(arch) if pdl is None else pdl
        shape = {"ROWS": self._tile.rows, "BLOCK": self._tile.block, "PDL": uses_pdl}

        def variant(of: Variants, **constexprs: Any) -> Launcher:
            warps = self._tile.num_warps
            given = {**constexprs, **shape}
            return of.get(arch, config.in_dtype, given, num_warps=warps, pdl=uses_pdl)

        self._amax = {
            aligned: variant(_AMAX, N=config.n, ALIGNED=aligned)
            for aligned in (True, False)
            if self._parts
        }
        self._codes = {
            aligned: variant(
                _CODES,
                **operand_constexprs(config, computed),
                PARTS=self._parts,
                PAD_ROWS=config.layout.padded_m_multiple > 1,
                ALIGNED=aligned,
                STORE=self._store if aligned else 1,
            )
            for aligned in (True, False)
        }

    def launchers(self) -> dict[Launcher, tuple[Any, ...]]:
        """Give every variant with arguments of the kinds of a launch's."""
        x = in_kind(self._config)
        source = torch.int32 if self._parts else torch.float32
        codes = (x, self._data_kind, torch.float32, source, 1, 1, 1, 1, 1, 1.0, 1.0)
        amax = (x, torch.int32, 1, 1, 1)
        return {
            **dict.fromkeys(self._amax.values(), amax),
            **dict.fromkeys(self._codes.values(), codes),
        }

    def run(self, source: Source, out: QuantizedTensor, scale: torch.Tensor | None) -> None:
        """Launch; for no rows there is still the scale to be written."""
        m, operand, tile = source.m, self._config.operand, self._tile
        padded_m, _ = self.outputs.rows(m)
        parts = 0
        if scale is None:
            tiles = -(-m // tile.rows) * -(-self._config.n // tile.block)
            parts = min(tiles, self._parts)
            scale = torch.empty(max(parts, 1), dtype=torch.int32, device=source.x.device)
        if parts:
            self._amax[source.is_aligned](
                (parts,), source.x, scale, m, source.row_stride, source.column_stride
            )
        is_aligned = source.is_aligned and out.data.data_ptr() % self._store == 0
        programs = -(-padded_m // tile.rows) * -(-self.outputs.padded_n // tile.block)
        self._codes[is_aligned](
            (max(programs, 1),),
            source.x,
            as_bytes(out) if self._data_kind is torch.uint8 else out.data,
            out.scales,
            scale,
            m,
            padded_m,
            source.row_stride,
            source.column_stride,
            parts,
            operand.eps,
            operand.scale_ub or 0.0,
        )


class Tensor(QuantizeKernel):
    """fp8 and int8 with one scale: variants for aligned rows and for any strides.

    Args:
        launches: 1 when the scale is given, 2 when it is computed.
    """

    def __init__(self, launches: int) -> None:
        self.variants_of_a_config = 2 * launches

    def compiled_variants(self) -> int:
        """Count the variants of this process."""
        return _AMAX.compiled() + _CODES.compiled()

    def plan(self, config: QuantizeConfig, arch: Arch, device: str = "") -> TensorPlan:
        """Choose tile and variants for a config; see `QuantizeKernel.plan`."""
        del device
        return TensorPlan(config, arch)


kernel: Final = Tensor(launches=2)
static_kernel: Final = Tensor(launches=1)
