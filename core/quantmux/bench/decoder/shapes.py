"""Shapes of the decoders: what a layer of each model is made of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Final

from quantmux.config._base import closest
from quantmux.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Gqa:
    """Attention whose query heads share key and value heads in groups.

    Attributes:
        heads: Query heads.
        kv_heads: Key and value heads; divides ``heads``.
        head_dim: Columns of a head.
        theta: Base of the rotation's frequencies.
    """

    heads: int
    kv_heads: int
    head_dim: int
    theta: float

    def linears(self, hidden: int, *, merged: bool) -> tuple[LinearShape, ...]:
        """Give the linears in the order of their calls."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        widths = {"qkv": q + 2 * kv} if merged else {"q": q, "k": kv, "v": kv}
        first = (LinearShape(name, n, hidden) for name, n in widths.items())
        return (*first, LinearShape("o", hidden, q))

    @property
    def rope_dim(self) -> int:
        """Columns of a head that are rotated."""
        return self.head_dim


@dataclass(frozen=True, slots=True)
class Mla:
    """Attention whose queries, keys and values go through a low rank.

    Attributes:
        heads: Heads.
        q_rank: Rank of the queries.
        kv_rank: Rank of keys and values.
        nope_dim: Columns of a head's query and key that are not rotated.
        rope_dim: Columns that are; the key's are one for all heads.
        v_dim: Columns of a head's value.
        theta: Base of the rotation's frequencies.
    """

    heads: int
    q_rank: int
    kv_rank: int
    nope_dim: int
    rope_dim: int
    v_dim: int
    theta: float

    def linears(self, hidden: int, *, merged: bool) -> tuple[LinearShape, ...]:
        """Give the linears in the order of their calls."""
        kv_a = self.kv_rank + self.rope_dim
        widths = {"qkv_a": self.q_rank + kv_a} if merged else {"q_a": self.q_rank, "kv_a": kv_a}
        first = (LinearShape(name, n, hidden) for name, n in widths.items())
        return (
            *first,
            LinearShape("q_b", self.heads * (self.nope_dim + self.rope_dim), self.q_rank),
            LinearShape("kv_b", self.heads * (self.nope_dim + self.v_dim), self.kv_rank),
            LinearShape("o", hidden, self.heads * self.v_dim),
        )


@dataclass(frozen=True, slots=True)
class LinearShape:
    """One linear of a layer: its name there, N and K."""

    name: str
    n: int
    k: int


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """Layers of a model, without embedding and head.

    Attributes:
        name: As asked for.
        hidden: Width of the residual stream.
        attention: Of every layer.
        mlps: Width of the MLP of each layer; as many as there are layers.
        eps: Of the norms.
        depth: Layers of the real model.
        schemes: Formats in which the model is published, the first by default.
        left_out: What the model has and this step has not.
    """

    name: str
    hidden: int
    attention: Gqa | Mla
    mlps: tuple[int, ...]
    eps: float
    depth: int
    schemes: tuple[str, ...]
    left_out: tuple[str, ...]

    def linears(self, layer: int, *, merged: bool) -> tuple[LinearShape, ...]:
        """Give the linears of one layer in the order of their calls."""
        width = self.mlps[layer]
        return (
            *self.attention.linears(self.hidden, merged=merged),
            LinearShape("gate_up", 2 * width, self.hidden),
            LinearShape("down", self.hidden, width),
        )

    def counted(self, *, merged: bool) -> dict[tuple[int, int], int]:
        """Give how often each N×K stands in the step."""
        every = (
            (one.n, one.k)
            for layer in range(len(self.mlps))
            for one in self.linears(layer, merged=merged)
        )
        return dict(Counter(every))

    def with_layers(self, count: int) -> DecoderShape:
        """Give the same with another number of layers; their widths begin anew after the last."""
        return replace(self, mlps=tuple(self.mlps[i % len(self.mlps)] for i in range(count)))


_HEADS_LEFT_OUT: Final = "embedding, final norm and head"

QWEN3_8B: Final = DecoderShape(
    name="qwen3-8b",
    hidden=4096,
    attention=Gqa(heads=32, kv_heads=8, head_dim=128, theta=1e6),
    mlps=(12288,) * 4,
    eps=1e-6,
    depth=36,
    schemes=("fp8_channel_token", "fp8_block128"),
    left_out=(_HEADS_LEFT_OUT,),
)
"""Four of the 36 layers of Qwen3-8B, from its public config."""

DSV3: Final = DecoderShape(
    name="dsv3",
    hidden=7168,
    attention=Mla(
        heads=128, q_rank=1536, kv_rank=512, nope_dim=128, rope_dim=64, v_dim=128, theta=1e4
    ),
    mlps=(18432, 2048, 2048, 2048),
    eps=1e-6,
    depth=61,
    schemes=("fp8_block128",),
    left_out=(
        _HEADS_LEFT_OUT,
        "routed experts and their router: those layers have the shared expert alone",
    ),
)
"""A dense layer of DeepSeek-V3 and three with a shared expert, from its public config."""

TINY_QWEN3: Final = replace(
    QWEN3_8B,
    name="qwen3-8b-tiny",
    hidden=256,
    attention=Gqa(heads=4, kv_heads=2, head_dim=64, theta=1e6),
    mlps=(512, 512),
)
"""The same parts, so narrow that a host takes them in a moment: plumbing, no figures."""

TINY_DSV3: Final = replace(
    DSV3,
    name="dsv3-tiny",
    hidden=256,
    attention=Mla(heads=4, q_rank=128, kv_rank=128, nope_dim=32, rope_dim=16, v_dim=32, theta=1e4),
    mlps=(512, 128),
)
"""Likewise."""

_MODELS: Final = {shape.name: (shape, tiny) for shape, tiny in (
    (QWEN3_8B, TINY_QWEN3), (DSV3, TINY_DSV3),
)}  # fmt: skip


def decoder_shape(name: str, *, tiny: bool = False) -> DecoderShape:
    """Give the shape of a model.

    Args:
        name: ``qwen3-8b`` or ``dsv3``.
        tiny: So narrow that a host takes it in a moment.

    Raises:
        ConfigError: There is no decoder of that name.
    """
    found = _MODELS.get(name.lower())
    if found is None:
        near = closest(name.lower(), _MODELS)
        raise ConfigError(
            f'no decoder of a model "{name}"',
            facts=["models: " + " ".join(_MODELS)],
            hint=f'did you mean "{near}"?' if near else "take one of these",
            code="usage",
        )
    return found[tiny]
