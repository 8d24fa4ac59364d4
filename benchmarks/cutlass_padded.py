"""What linears of odd widths cost where every call pads: two ways, on torch's kernels.

`torch._scaled_mm` wants N and K to be multiples of 16. Both ways begin at a plain x [M, K], which
is quantized by our Triton kernel without padding, and end at a contiguous y [M, N].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch.nn.functional import pad

from quantmux.bench.contenders import pipelines_of
from quantmux.bench.peers.base import BoundPeer, linear_peer
from quantmux.config import QuantizeConfig
from quantmux.ops.quantized import DTYPES
from quantmux.runtime.context import default_context
from quantmux.runtime.steps import build

if TYPE_CHECKING:
    from quantmux.bench.materials import Materials
    from quantmux.bench.rows import BenchCase
    from quantmux.bench.traffic import Part
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import LinearWeights
    from quantmux.ops.spec import Call

MULTIPLE: Final = 16
_TOLERANCE: Final = 3e-2
_NAMES: Final = {"call": "pad on every call", "load": "pad at load, slice on every call"}

Way = Literal["call", "load"]


class PaddedByTorch:
    """Pads with torch, multiplies by ``torch._scaled_mm``, cuts y out of the result.

    Args:
        way: ``call`` pads weights, their scales and x on every call; ``load`` pads the weights
            once, as vLLM's pull request 42651 does, and x on every call.
    """

    part: Part = "pipeline"

    def __init__(self, way: Way) -> None:
        self._way = way
        self.name = _NAMES[way]

    def unavailable(self, device: DeviceProfile) -> str:
        return "" if device.is_cuda else "it is timed on GPUs"

    def refuses(self, case: BenchCase) -> str:
        config = case.config
        if config.op != "linear" or config.scheme.name != "fp8_channel_token":
            return "it does fp8_channel_token"
        return "" if config.n % MULTIPLE or config.k % MULTIPLE else "there is nothing to pad"

    def bind(self, case: BenchCase, materials: Materials, inputs: Sequence[Call]) -> BoundPeer:
        config = case.config
        if config.op != "linear":
            raise TypeError(config.op)
        quantize = _quantizer(config, case.m, materials.device)
        calls = [
            self._call(config, quantize, materials.weights_copy(i), call.args[0])
            for i, call in enumerate(inputs)
        ]
        return linear_peer(calls, config, materials, inputs, _TOLERANCE)

    def _call(
        self,
        config: LinearConfig,
        quantize: Callable[[torch.Tensor], Any],
        weights: LinearWeights,
        x: torch.Tensor,
    ) -> Callable[[], torch.Tensor]:
        def padded() -> tuple[torch.Tensor, torch.Tensor]:
            more = _missing(config.n)
            return (
                _pad_codes(weights.data, _missing(config.k), more).T,
                pad(weights.scales.reshape(1, -1), (0, more), value=1.0),
            )

        ahead = padded() if self._way == "load" else None

        def run() -> torch.Tensor:
            w, scales = ahead or padded()
            q = quantize(x)
            a = _pad_codes(q.data, _missing(config.k), 0)
            y = _product(a, w, q.scales, scales, DTYPES[config.out_dtype])
            return y[:, : config.n].contiguous()

        return run


def _quantizer(config: LinearConfig, m: int, device: DeviceProfile) -> Callable[[Any], Any]:
    activation = config.scheme.activation
    if activation is None:
        raise TypeError(config.scheme.name)
    wanted = QuantizeConfig(operand=activation, n=config.k, in_dtype=config.in_dtype)
    context = default_context()
    pipeline = pipelines_of(wanted, m, context, device, only=["triton/*"])[0]
    return build(pipeline, context, device).run


def _missing(size: int) -> int:
    return -size % MULTIPLE


def _pad_codes(codes: torch.Tensor, columns: int, rows: int) -> torch.Tensor:
    # torch pads no fp8
    return pad(codes.view(torch.uint8), (0, columns, 0, rows)).view(codes.dtype)


def _product(
    a: torch.Tensor, w: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor, out: torch.dtype
) -> torch.Tensor:
    product: Any = partial(torch._scaled_mm, use_fast_accum=True)  # noqa: SLF001 - no public name
    y: torch.Tensor = product(a, w, scale_a=scale_a, scale_b=scale_b, out_dtype=out)
    return y
