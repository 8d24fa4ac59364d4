"""Weights and inputs of one config, in as many copies as a rotation needs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from quantmux.config.formats import NVFP4_GLOBAL_DENOMINATOR
from quantmux.ops.inputs import static_scale
from quantmux.ops.linear.weights import quantize_weight
from quantmux.ops.quantize.reference import quantize_values
from quantmux.ops.quantized import DTYPES, LinearWeights, QuantizedTensor
from quantmux.ops.rope import CACHE_ROWS, make_cos_sin_cache
from quantmux.ops.spec import Call
from quantmux.runtime.prepare import WeightStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig, LinearConfig

_PEAK = 4.5
"""Standard deviations that a static activation scale covers."""

_TURN = 499_979
"""Between the seeds of first and other inputs: beyond every M."""


class Materials:
    """What the calls of one config are made of.

    The numbers are random and never zero: on a GPU zeros draw less power and run faster. Copies
    hold the same numbers in other memory. Drawn on the device, so that they are there at once.

    Args:
        config: Of any op.
        device: Where.
        seed: Of weights and inputs; the same in every process.
    """

    def __init__(self, config: LayerConfig, device: DeviceProfile, seed: int = 0) -> None:
        self.config = config
        self.device = device
        self._seed = seed
        self._stores: list[WeightStore] = []
        self._weights: LinearWeights | None = None

    @property
    def weights(self) -> LinearWeights:
        """Canonical weights of a linear: those of the first copy."""
        if self._weights is None:
            self._weights = _random_weights(self._linear, self._generator(0), self._where)
        return self._weights

    def weights_copy(self, index: int) -> LinearWeights:
        """Give the canonical weights of one copy."""
        store = self.stores(index + 1)[index]
        return store.canonical()

    def stores(self, count: int) -> list[WeightStore]:
        """Give the first copies of the weights, each with its prepared forms."""
        while len(self._stores) < count:
            weights = self.weights
            mine = weights if not self._stores else _clone(weights)
            self._stores.append(WeightStore(mine, self._linear, self.device))
        return self._stores[:count]

    def inputs(self, m: int, count: int) -> list[Call]:
        """Give the arguments of calls with M rows, one per copy; of a linear, x alone."""
        first = self._input(m)
        return [first, *(_clone_call(first) for _ in range(count - 1))]

    def renew(self, inputs: Sequence[Call], m: int) -> None:
        """Overwrite the arguments of calls with other numbers, in place and the same in all."""
        other = self._input(m, turn=1)
        with torch.inference_mode():
            for call in inputs:
                for old, new in zip(_tensors(call), _tensors(other), strict=True):
                    old.copy_(new)

    @property
    def _linear(self) -> LinearConfig:
        if self.config.op != "linear":
            raise TypeError(f"{self.config.op} has no weights")
        return self.config

    @property
    def _where(self) -> torch.device:
        return torch.device(self.device.torch_name)

    def _generator(self, salt: int) -> torch.Generator:
        return torch.Generator(device=self._where).manual_seed(self._seed * 1_000_003 + salt)

    def _input(self, m: int, turn: int = 0) -> Call:
        config, where = self.config, self._where
        generator = self._generator(1 + m + turn * _TURN)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, device=where)

        if config.op == "linear":
            return Call((normal(m, config.k).to(DTYPES[config.in_dtype]),))
        if config.op == "relayout":
            return Call((quantize_values(normal(m, config.n), config.operand, config.source),))
        dtype = DTYPES[config.in_dtype]
        if config.op in ("inverse_rope_quantize", "rope_quantize"):
            heads = normal(m, config.heads, config.head_dim).to(dtype)
            positions = torch.randint(0, CACHE_ROWS, (m,), generator=generator, device=where)
            table = make_cos_sin_cache(CACHE_ROWS, config.rope_dim).to(where)
            is_given = config.op == "rope_quantize" and config.static_scale is None
            scale = {"scale": static_scale(config.operand, 1.0, where)} if is_given else {}
            return Call((heads, positions, table), scale)
        width = config.n * (2 if config.op == "silu_mul_quantize" else 1)
        scales: dict[str, torch.Tensor] = {}
        if not config.operand.dynamic:
            scales["scale"] = static_scale(config.operand, 1.0, where)
        if config.operand.global_scale == "static":
            scales["global_scale"] = torch.full(
                (1,), _PEAK / NVFP4_GLOBAL_DENOMINATOR, device=where
            )
        x = normal(m, width).to(dtype)
        if config.op == "rmsnorm_quantize":
            weight = (1.0 + 0.1 * normal(config.n)).to(DTYPES[config.weight_dtype])
            return Call((x, weight), scales)
        return Call((x,), scales)


def _random_weights(
    config: LinearConfig, generator: torch.Generator, where: torch.device
) -> LinearWeights:
    weight = torch.randn(config.n, config.k, generator=generator, device=where)
    weight *= config.k**-0.5
    bias = None
    if config.bias:
        bias = torch.randn(config.n, generator=generator, device=where).to(torch.bfloat16)
    activation = config.scheme.activation
    scale = global_scale = None
    if activation is not None and not activation.dynamic:
        scale = torch.full((1,), _PEAK / activation.max_value, device=where)
    if activation is not None and activation.global_scale == "static":
        global_scale = torch.full((1,), _PEAK / NVFP4_GLOBAL_DENOMINATOR, device=where)
    return quantize_weight(
        weight, config.scheme, bias=bias, input_scale=scale, input_global_scale=global_scale
    )


def _clone(weights: LinearWeights) -> LinearWeights:
    return replace(weights, **{name: t.clone() for name, t in weights.named().items()})


def _tensors(call: Call) -> list[torch.Tensor]:
    values = (*call.args, *call.kwargs.values())
    return [
        part
        for value in values
        for part in (value.tensors() if isinstance(value, QuantizedTensor) else (value,))
    ]


def _clone_call(call: Call) -> Call:
    return Call(
        tuple(_clone_value(value) for value in call.args),
        {name: _clone_value(value) for name, value in call.kwargs.items()},
    )


def _clone_value(value: Any) -> Any:
    if not isinstance(value, QuantizedTensor):
        return value.clone()
    # the scales' storage goes beyond their shape: pad rows are part of the layout
    whole = value.scales.untyped_storage().nbytes() // value.scales.element_size()
    flat = value.scales.as_strided((whole,), (1,), 0).clone()
    scales = flat.as_strided(
        value.scales.shape, value.scales.stride(), value.scales.storage_offset()
    )
    return replace(value, data=value.data.clone(), scales=scales)
