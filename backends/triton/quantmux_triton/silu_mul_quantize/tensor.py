"""triton/silu_mul_quantize_tensor and _tensor_static: silu(gate) · up with one scale."""

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
    has_fast_silu,
    operand_constexprs,
)
from quantmux_triton.silu_mul_quantize.tensor_config import PARTS, matrix_tile
from quantmux_triton.silu_mul_quantize.tensor_kernel import (
    silu_mul_amax_kernel,
    silu_mul_tensor_kernel,
)

if TYPE_CHECKING:
    from quantmux.capability.arch import Arch
    from quantmux.config import SiluMulQuantizeConfig
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux_triton.launcher import Launcher
    from quantmux_triton.silu_mul_quantize.tensor_config import MatrixTile

_AMAX: Final = Variants(silu_mul_amax_kernel)
_CODES: Final = Variants(silu_mul_tensor_kernel)


class SiluTensorPlan(Plan):
    """A config on an architecture.

    Args:
        config: What is made.
        arch: Where.
        tile: What one program takes; None takes `matrix_tile`.
        pdl: Programmatic dependent launch; None is wherever it exists.
    """

    def __init__(
        self,
        config: SiluMulQuantizeConfig,
        arch: Arch,
        *,
        tile: MatrixTile | None = None,
        pdl: bool | None = None,
    ) -> None:
        self.outputs = Outputs(config.operand, config.layout, config.n)
        self._config = config
        self._bounds = (config.operand.eps, config.operand.scale_ub or 0.0)
        self._tile = tile or matrix_tile(config.padded_n)
        self._halves_aligned = halves_aligned(config)
        self._data_kind = data_kind(config, arch)
        self._store = gcd(config.padded_n, 16)
        self._parts = PARTS if config.operand.dynamic else 0
        uses_pdl = has_pdl(arch) if pdl is None else pdl
        shape = {"ROWS": self._tile.rows, "BLOCK": self._tile.block, "PDL": uses_pdl}

        def variant(of: Variants, **constexprs: Any) -> Launcher:
            given = {**constexprs, **shape}
            warps = self._tile.num_warps
            return of.get(arch, config.in_dtype, given, num_warps=warps, pdl=uses_pdl)

        self._amax = {
            aligned: variant(_AMAX, N=config.n, ALIGNED=aligned, FAST_SILU=has_fast_silu(arch))
            for aligned in (True, False)
            if self._parts
        }
        self._codes = {
            aligned: variant(
                _CODES,
                **operand_constexprs(config, arch),
                PARTS=self._parts,
                ALIGNED=aligned,
                STORE=self._store if aligned else 1,
            )
            for aligned in (True, False)
        }

    def launchers(self) -> dict[Launcher, tuple[Any, ...]]:
        """Give every variant with arguments of the kinds of a launch's."""
        x = DTYPES[self._config.in_dtype]
        source = torch.int32 if self._parts else torch.float32
        codes = (x, self._data_kind, torch.float32, source, 1, 1, 1, 1, 1, 1.0, 1.0)
        return {
            **dict.fromkeys(self._amax.values(), (x, torch.int32, 1, 1, 1)),
            **dict.fromkeys(self._codes.values(), codes),
        }

    def run(self, source: Source, out: QuantizedTensor, scale: torch.Tensor | None) -> None:
        """Launch; for no rows there is still the scale to be written."""
        x, m, row_stride, column_stride, is_aligned = source
        is_aligned = is_aligned and self._halves_aligned
        data = as_bytes(out) if self._data_kind is torch.uint8 else out.data
        tile = self._tile
        padded_m, _ = self.outputs.rows(m)
        parts = 0
        if scale is None:
            tiles = -(-m // tile.rows) * -(-self._config.n // tile.block)
            parts = min(tiles, self._parts)
            scale = torch.empty(max(parts, 1), dtype=torch.int32, device=x.device)
        if parts:
            self._amax[is_aligned]((parts,), x, scale, m, row_stride, column_stride)
        programs = -(-padded_m // tile.rows) * -(-self.outputs.padded_n // tile.block)
        self._codes[is_aligned and data.data_ptr() % self._store == 0](
            (max(programs, 1),),
            x,
            data,
            out.scales,
            scale,
            m,
            padded_m,
            row_stride,
            column_stride,
            parts,
            *self._bounds,
        )


class SiluMulTensor(SiluMulKernel):
    """fp8 and int8 with one scale: variants for aligned rows and for any strides.

    Args:
        launches: 1 when the scale is given, 2 when it is computed.
    """

    def __init__(self, launches: int) -> None:
        self.variants_of_a_config = 2 * launches

    def compiled_variants(self) -> int:
        """Count the variants of this process."""
        return _AMAX.compiled() + _CODES.compiled()

    def plan(self, config: SiluMulQuantizeConfig, arch: Arch, device: str = "") -> SiluTensorPlan:
        """Choose tile and variants for a config; nothing measured is looked up."""
        del device
        return SiluTensorPlan(config, arch)


kernel: Final = SiluMulTensor(launches=2)
static_kernel: Final = SiluMulTensor(launches=1)
