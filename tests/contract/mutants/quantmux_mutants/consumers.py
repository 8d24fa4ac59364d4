"""Right linears, cut into steps so that a mutant replaces exactly one of them.

y = alpha · Σ (code · s_a)(code · s_w) + bias in fp64, rounded once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from quantmux.ops.linear.spec import empty_output
from quantmux.ops.quantized import DTYPES, LinearWeights, QuantizedTensor
from quantmux.registry.protocol import PreparedWeights
from quantmux_mutants.memory import column_storage, flat, scale_places
from quantmux_mutants.producers import RowQuantizer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from quantmux import DeviceProfile, LinearConfig

E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], dtype=torch.float32, device="cpu")


class ChannelLinear:
    """fp8 weights [N, K] with a scale per channel, x in fp8 with a scale per token.

    Codes and scales are padded to 16 rows when they are prepared, and to 16 columns.
    """

    layout = "mutants:padded16"
    row_multiple = 8

    def prepare(
        self, weights: LinearWeights, config: LinearConfig, device: DeviceProfile
    ) -> PreparedWeights:
        del device
        n, k = config.n, config.k
        data = self.padded(weights.data, -n % 16, -k % 16)
        tensors = {**weights.named(), "data": data, "scales": self.prepared_scales(weights, n)}
        small = {name: tensor for name, tensor in weights.named().items() if name != "data"}

        def restore() -> LinearWeights:
            return LinearWeights(data=data[:n, :k].contiguous(), **small)

        return PreparedWeights(tensors, self.layout, *self.logical(data, config), restore)

    def padded(self, data: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
        if rows == cols == 0:
            return data
        bits = functional.pad(data.view(torch.uint8), (0, cols, 0, rows))
        return bits.view(data.dtype)

    def prepared_scales(self, weights: LinearWeights, n: int) -> torch.Tensor:
        return functional.pad(weights.scales, (0, 0, 0, -n % 16))

    def logical(self, data: torch.Tensor, config: LinearConfig) -> tuple[int, int]:
        del data
        return config.n, config.k

    def bind(
        self, config: LinearConfig, prepared: PreparedWeights, device: DeviceProfile
    ) -> Callable[..., torch.Tensor]:
        del device
        tensors = prepared.tensors
        w = self.weight_values(tensors, config)

        def run(x: Any, *, out: torch.Tensor | None = None) -> torch.Tensor:
            return self.call(config, tensors, w, x, out)

        return run

    def warmup(self, config: LinearConfig, ms: Sequence[int]) -> None:
        """Do nothing: there is no code to compile."""

    def call(
        self,
        config: LinearConfig,
        tensors: Mapping[str, torch.Tensor],
        w: torch.Tensor,
        x: Any,
        out: torch.Tensor | None,
    ) -> torch.Tensor:
        a = self.activations(x, config)
        y = self.product(a, w, config)
        y = self.scaled(y, tensors, x)
        y = self.with_bias(y, tensors.get("bias") if config.bias else None, config)
        return self.stored(y, config, out)

    def weight_values(
        self, tensors: Mapping[str, torch.Tensor], config: LinearConfig
    ) -> torch.Tensor:
        """Give code · s_w as fp64 [N, K]."""
        codes = tensors["data"].to(torch.float64)
        return (codes * tensors["scales"].to(torch.float64))[: config.n, : config.k]

    def activations(self, x: QuantizedTensor, config: LinearConfig) -> torch.Tensor:
        """Give code · s_a as fp64 [M, K]."""
        values = x.data.to(torch.float64) * x.scales.to(torch.float64)
        return values[: x.m, : config.k]

    def product(self, a: torch.Tensor, w: torch.Tensor, config: LinearConfig) -> torch.Tensor:
        del config
        return a @ w.T

    def scaled(self, y: torch.Tensor, tensors: Mapping[str, torch.Tensor], x: Any) -> torch.Tensor:
        del tensors, x
        return y

    def with_bias(
        self, y: torch.Tensor, bias: torch.Tensor | None, config: LinearConfig
    ) -> torch.Tensor:
        del config
        return y if bias is None else y + bias.to(torch.float64)

    def stored(
        self, y: torch.Tensor, config: LinearConfig, out: torch.Tensor | None
    ) -> torch.Tensor:
        if out is None:
            out = self.allocate(y.shape[0], config)
        return out.copy_(y.to(torch.float32))

    def allocate(self, m: int, config: LinearConfig) -> torch.Tensor:
        return empty_output(
            m,
            config.n,
            DTYPES[config.out_dtype],
            "cpu",
            row_multiple=self.row_multiple,
            contiguous=config.contiguous_output,
        )


class BlockLinear(ChannelLinear):
    """fp8 weights in blocks of 128 x 128, x in groups of 128 with TMA's aligned columns."""

    layout = "canonical"

    def prepare(
        self, weights: LinearWeights, config: LinearConfig, device: DeviceProfile
    ) -> PreparedWeights:
        del device
        return PreparedWeights(weights.named(), "canonical", config.n, config.k, lambda: weights)

    def weight_values(
        self, tensors: Mapping[str, torch.Tensor], config: LinearConfig
    ) -> torch.Tensor:
        grid = self.block_grid(tensors["scales"])
        wide = grid.repeat_interleave(128, 0)[: config.n].repeat_interleave(128, 1)
        return tensors["data"].to(torch.float64) * wide[:, : config.k].to(torch.float64)

    def block_grid(self, scales: torch.Tensor) -> torch.Tensor:
        return scales

    def activations(self, x: QuantizedTensor, config: LinearConfig) -> torch.Tensor:
        scales = column_storage(x).T[: x.m].repeat_interleave(128, dim=1)[:, : config.k]
        return x.data[:, : config.k].to(torch.float64) * scales.to(torch.float64)


class InsideLinear(BlockLinear):
    """The same weights and a plain x: it makes the groups itself, and is given no scale."""

    quantizer = RowQuantizer()

    def activations(self, x: torch.Tensor, config: LinearConfig) -> torch.Tensor:
        operand = config.scheme.activation
        values, steps = x.to(torch.float32), self.quantizer
        scales = steps.scales(steps.amax(values, operand), operand)
        wide = steps.widened(scales, values, operand)
        codes = steps.codes(values, wide, operand)
        return codes.to(torch.float64) * wide.to(torch.float64)


class WeightOnlyLinear(ChannelLinear):
    """The weights of its parent and a plain 16-bit x."""

    layout = "mutants:padded16_weight_only"

    def activations(self, x: torch.Tensor, config: LinearConfig) -> torch.Tensor:
        del config
        return x.to(torch.float64)


class Int8Linear(ChannelLinear):
    """int8 weights with a scale per channel, x in int8 with a scale per token; an exact sum."""

    layout = "mutants:padded16_int8"

    def call(
        self,
        config: LinearConfig,
        tensors: Mapping[str, torch.Tensor],
        w: torch.Tensor,
        x: QuantizedTensor,
        out: torch.Tensor | None,
    ) -> torch.Tensor:
        del w
        codes = tensors["data"][: config.n, : config.k]
        sums = self.integer_sum(x.data[: x.m, : config.k], codes).to(torch.float64)
        y = sums * x.scales[: x.m].to(torch.float64)
        y = y * tensors["scales"][: config.n].T.to(torch.float64)
        y = self.with_bias(y, tensors.get("bias") if config.bias else None, config)
        return self.stored(y, config, out)

    def integer_sum(self, a: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return a.to(torch.int32) @ w.to(torch.int32).T


class Nvfp4Linear(BlockLinear):
    """NVFP4 by NVFP4, x with its scales in tiles of 128 x 4."""

    def weight_values(
        self, tensors: Mapping[str, torch.Tensor], config: LinearConfig
    ) -> torch.Tensor:
        return self.decoded(tensors["data"], tensors["scales"], config.k)

    def activations(self, x: QuantizedTensor, config: LinearConfig) -> torch.Tensor:
        cols = x.layout.padded_n // 16
        places = scale_places(self.read_as(x), x.m, cols, x.layout.padded_n)
        scales = flat(x.scales).view(torch.uint8)[places].view(torch.float8_e4m3fn)
        return self.decoded(x.data[: x.m], scales, config.k)

    def read_as(self, x: QuantizedTensor) -> str:
        return x.layout.scales

    def decoded(self, data: torch.Tensor, scales: torch.Tensor, k: int) -> torch.Tensor:
        codes = torch.stack(self.halves(data), dim=-1).flatten(-2).long()
        size = E2M1[codes & 7].to(torch.float64)
        values = torch.where(codes >= 8, -size, size)
        wide = scales.to(torch.float64).repeat_interleave(16, dim=1)
        return (values * wide)[:, :k]

    def halves(self, data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return data & 0xF, data >> 4

    def scaled(
        self, y: torch.Tensor, tensors: Mapping[str, torch.Tensor], x: QuantizedTensor
    ) -> torch.Tensor:
        return y * (x.global_scale * tensors["global_scale"]).to(torch.float64)


channel = ChannelLinear()
block = BlockLinear()
inside = InsideLinear()
weight_only = WeightOnlyLinear()
int8 = Int8Linear()
nvfp4_linear = Nvfp4Linear()
