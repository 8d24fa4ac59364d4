"""A quantizer of FP8 tokens that multiplies by 1 / s, and may look past NaN."""

import torch

from quantmux import BackendInfo, Capability, KernelSpec, OperandOffer, hookimpl, operand
from quantmux.ops.numerics import block_amax, saturating_cast
from quantmux.ops.quantized import empty_quantized


class Near:
    """Codes ``round(x · r)``, r an ulp above 1 / s; the definition divides."""

    loses_nan = False

    def bind(self, config, device):
        del device

        def run(x, *, scale=None, global_scale=None, out=None):
            del scale, global_scale
            values, m, n = x.float(), x.shape[0], config.n
            if out is None:
                out = empty_quantized(config.operand, config.layout, m, n, x.device)
            if Near.loses_nan:
                values = torch.nan_to_num(values, nan=0.0)
            amax = block_amax(values, config.operand.block)
            s = torch.where(amax.isfinite(), amax.clamp(min=config.operand.eps) / 448, torch.nan)
            reciprocal = torch.nextafter(1 / s, torch.full_like(s, torch.inf))
            codes = saturating_cast(values * reciprocal, torch.float8_e4m3fn)
            out.data.view(torch.uint8).copy_(codes.view(torch.uint8))
            out.scales.copy_(s)
            return out

        return run

    def warmup(self, config, ms):
        pass


KERNEL = Near()


class Plugin:
    """A backend ``near`` of one kernel with these tags."""

    def __init__(self, *tags):
        self.tags = frozenset({"composite", *tags})

    @hookimpl
    def quantmux_backend(self):
        return BackendInfo(name="near", version="1", api=">=1.0,<2")

    @hookimpl
    def quantmux_kernels(self):
        token = OperandOffer.of(operand("fp8_token"), ("row_major",), takes_scale_ub=False)
        yield KernelSpec(
            id="near/token",
            op="quantize",
            capability=Capability(arch="cpu", produces=(token,), tags=self.tags),
            load="near_kernels:KERNEL",
            sources=("near_kernels.py",),
        )
