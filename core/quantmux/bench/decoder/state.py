"""What a step is given: the residual stream, the rotation, and caches of every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from quantmux.bench.decoder.shapes import Gqa

if TYPE_CHECKING:
    from quantmux.bench.decoder.attention import Cache
    from quantmux.bench.decoder.model import Form
    from quantmux.bench.decoder.shapes import DecoderShape


@dataclass(frozen=True, slots=True)
class StepCase:
    """One number of rows.

    Attributes:
        phase: ``decode``: one token of each of ``m`` sequences; ``prefill``: the ``m`` tokens of
            one prompt.
        m: Rows of every linear.
    """

    phase: str
    m: int

    def __str__(self) -> str:
        return f"{self.phase} M={self.m}"


@dataclass(frozen=True, slots=True)
class State:
    """Arguments of `Decoder.forward`; all variants are given the same.

    Attributes:
        args: x, cos, sin and the caches.
        cache_bytes: Bytes of all caches, which a step reads.
    """

    args: tuple[Any, ...]
    cache_bytes: int

    @property
    def x(self) -> torch.Tensor:
        """The residual stream [M, hidden] before the first layer."""
        found: torch.Tensor = self.args[0]
        return found


def draw_state(
    shape: DecoderShape,
    case: StepCase,
    form: Form,
    device: torch.device,
    *,
    kv_length: int,
    seed: int = 0,
) -> State:
    """Draw what a step is given; normal numbers.

    Args:
        shape: The decoder.
        case: Phase and rows.
        form: How the decoder is put together.
        device: Where.
        kv_length: Tokens of each sequence that are in the cache, the new one among them.
        seed: Of the numbers.
    """
    attention, m = shape.attention, case.m
    generator = torch.Generator(device=device).manual_seed(1 + seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, device=device, dtype=torch.bfloat16)

    x = normal(m, shape.hidden)
    is_decode = case.phase == "decode"
    first = kv_length - 1 if is_decode else 0
    at = torch.arange(m, device=device) * (not is_decode) + first
    cos, sin = _rotation(attention.theta, attention.rope_dim, at)
    caches: list[Cache] | None = None
    if isinstance(attention, Gqa) and form.attends and is_decode:
        size = (m, attention.kv_heads, kv_length, attention.head_dim)
        where = torch.tensor([kv_length - 1], device=device)
        caches = [(normal(*size), normal(*size), where) for _ in shape.mlps]
    read = sum(t.numel() * t.element_size() for pair in caches or () for t in pair[:2])
    return State((x, cos, sin, caches), read)


def _rotation(theta: float, dim: int, at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give cos and sin bf16 [M, dim] of the positions int64 [M]."""
    inverse = theta ** (-torch.arange(0, dim, 2, device=at.device).float() / dim)
    angle = at.float().unsqueeze(1) * inverse
    both = torch.cat((angle, angle), dim=-1)
    return both.cos().to(torch.bfloat16), both.sin().to(torch.bfloat16)
