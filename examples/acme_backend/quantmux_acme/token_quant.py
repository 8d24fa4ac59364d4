"""acme/token_quant: x [M, n] into fp8_e4m3 with one scale per row.

Plain tensor operations walk over the whole matrix once for each step. This kernel takes so few
rows at a time that they stay in the cache between the steps. The numbers are those of the op's
definition, to the bit: s = max(min(amax, scale_ub), eps) / 448, q = round(x / s).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux import empty_quantized, plugin_options

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux import DeviceProfile, QuantizeConfig, QuantizedTensor

E4M3_MAX = 448.0
BLOCK_KIB = 256  # of fp32 values: the level-2 cache of small cores


class TokenQuant:
    """A producer: two methods, `bind` and `warmup`."""

    def bind(self, config: QuantizeConfig, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        """Give the function for one config; whatever can be decided once is decided here."""
        del device  # the capability says CPU
        n, operand, layout = config.n, config.operand, config.layout
        rows = max(1, _block_kib() * 1024 // (4 * n))

        def quantize(
            x: torch.Tensor,
            *,
            scale: torch.Tensor | None = None,
            global_scale: torch.Tensor | None = None,
            out: QuantizedTensor | None = None,
        ) -> QuantizedTensor:
            del scale, global_scale  # a dynamic operand is given neither
            m = x.shape[0]
            if out is None:
                out = empty_quantized(operand, layout, m, n, x.device)
            codes = out.data.view(torch.uint8)
            for start in range(0, m, rows):
                end = min(start + rows, m)
                values = x[start:end].to(torch.float32)
                amax = values.abs().amax(dim=1, keepdim=True)  # keeps a NaN
                bounded = amax.clamp(min=operand.eps, max=_ceiling(operand.scale_ub))
                s = bounded / E4M3_MAX
                s[~torch.isfinite(amax)] = torch.nan  # a row with NaN or Inf has no scale
                scaled = (values / s).clamp_(-E4M3_MAX, E4M3_MAX)
                codes[start:end, :n] = scaled.to(torch.float8_e4m3fn).view(torch.uint8)
                out.scales[start:end] = s
            # the contract of padding: every byte beyond the matrix is written, and zero
            codes[:, n:] = 0
            codes[m:] = 0
            out.scales[m:] = 0
            return out

        return quantize

    def warmup(self, config: QuantizeConfig, ms: Sequence[int]) -> None:
        """Do nothing: there is no code to compile."""


def _ceiling(scale_ub: float | None) -> float:
    return float("inf") if scale_ub is None else scale_ub


def _block_kib() -> int:
    """Give the option of ``[plugins.acme] options = { block_kib = 512 }`` in plugins.toml."""
    return int(plugin_options("acme").get("block_kib", BLOCK_KIB))


KERNEL = TokenQuant()
