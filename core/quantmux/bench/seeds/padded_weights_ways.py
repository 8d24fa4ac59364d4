"""The two ways of padding that were there before ours, on torch's scaled product.

What is padded when follows the pull request and what it replaced: weights with zeros in N and K,
scales of output channels with ones, codes of x in K and the bias in N with zeros; the product's
padded columns are cut off and the rest is made contiguous.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn.functional import pad

from quantmux.bench.gate import check_linear
from quantmux.bench.seeds.experiment import Made
from quantmux.config import QuantizeConfig
from quantmux.ops.quantized import DTYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.bench.seeds.linears import LinearCopies
    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import LinearWeights
    from quantmux.ops.spec import Call

MULTIPLE: Final = 16
_TOLERANCE: Final = 3e-2
"""Relative error: torch's product accumulates in the tensor core's short accumulator."""


class PadsAtLoad:
    """As the pull request has it: weights and scales once, x and the bias on every call.

    Args:
        config: The linear.
        weights: Canonical.
        quantize: x [M, K] → codes and a scale per row, not padded.
    """

    def __init__(
        self, config: LinearConfig, weights: LinearWeights, quantize: Callable[..., Any]
    ) -> None:
        self._n = config.n
        self._more_n, self._more_k = -config.n % MULTIPLE, -config.k % MULTIPLE
        self._weights = weights
        self._bias = weights.bias
        self._quantize = quantize
        self._product = partial(
            _torchs if weights.data.is_cuda else _stand_in, DTYPES[config.out_dtype]
        )
        self._ahead = self._padded()

    def _padded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the weight [K, N], its columns contiguous, and its scales [1, N], both padded."""
        weight, scales = self._weights.data, self._weights.scales.reshape(1, -1)
        if self._more_n or self._more_k:
            weight = _pad_codes(weight, self._more_k, self._more_n)
        if self._more_n:
            scales = pad(scales, (0, self._more_n), value=1.0)
        return weight.T, scales

    def _ready(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._ahead

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Give y [M, N], contiguous, for a plain x [M, K]."""
        weight, scales = self._ready()
        q = self._quantize(x)
        codes, bias = q.data, self._bias
        if self._more_k:
            codes = _pad_codes(codes, self._more_k, 0)
        if self._more_n and bias is not None:
            bias = pad(bias, (0, self._more_n))
        y = self._product(codes, weight, q.scales, scales, bias)
        return y[:, : self._n].contiguous() if self._more_n else y


class PadsEveryCall(PadsAtLoad):
    """As it was: weights and scales, too, on every call."""

    def _ready(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._padded()


def padding_way(
    linear: LinearCopies, inputs: Sequence[Call], way: type[PadsAtLoad] = PadsAtLoad
) -> Made:
    """Give one of the two ways on a linear, one call per input."""
    config, materials = linear.config, linear.materials
    activation = config.scheme.activation
    if activation is None:
        raise TypeError(config.scheme.name)
    wanted = QuantizeConfig(operand=activation, n=config.k, in_dtype=config.in_dtype)
    quantizer = linear.stage.producer(wanted)
    x = inputs[0].args[0]
    calls = tuple(
        partial(way(config, materials.weights_copy(i), quantizer.call), call.args[0])
        for i, call in enumerate(inputs)
    )

    def compare(y: Any) -> Any:
        return check_linear(config, x, materials, y, tolerance=_TOLERANCE)

    product = "torch._scaled_mm" if x.is_cuda else "fp32 product"
    return Made(calls, compare, kernel=f"{quantizer.pipeline_for(x.shape[0])} -> {product}")


def _pad_codes(codes: torch.Tensor, columns: int, rows: int) -> torch.Tensor:
    # torch pads no fp8
    return pad(codes.view(torch.uint8), (0, columns, 0, rows)).view(codes.dtype)


def _torchs(
    dtype: torch.dtype,
    codes: torch.Tensor,
    weight: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    product: Any = torch._scaled_mm  # noqa: SLF001 - torch has no public name for it
    y: torch.Tensor = product(
        codes,
        weight,
        scale_a=scale_a,
        scale_b=scale_b,
        bias=bias,
        out_dtype=dtype,
        use_fast_accum=True,
    )
    return y


def _stand_in(
    dtype: torch.dtype,
    codes: torch.Tensor,
    weight: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """Give the same product on a host, where torch 2.11 has it for whole tensors only."""
    y = (codes.float() @ weight.float()) * scale_a * scale_b
    return (y if bias is None else y + bias).to(dtype)
