"""Widths of activations that are no multiple of 32, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from quantmux.config.layouts import round_up

MULTIPLE: Final = 32
"""What FP4 GEMMs of CUTLASS want K to be a multiple of."""

SEED_WIDTH: Final = 7152
"""Of the pull request's own table: 7152 → 7168."""

SEED_ROWS: Final = (1, 8, 32, 128, 512, 2048, 8192)


@dataclass(frozen=True, slots=True)
class Shard:
    """The K of a linear on one rank of a tensor-parallel model.

    Attributes:
        model: Of whose public config the width is.
        width: Before it is divided.
        ranks: By which it is divided.
    """

    model: str
    width: int
    ranks: int

    @property
    def n(self) -> int:
        """K on one rank."""
        return self.width // self.ranks

    @property
    def padded_n(self) -> int:
        """K as the GEMM wants it."""
        return round_up(self.n, MULTIPLE)

    @property
    def needs_padding(self) -> bool:
        """Tell whether it is not that already, yet of whole blocks of 16."""
        return self.n % 16 == 0 and self.n != self.padded_n

    def __str__(self) -> str:
        return f"{self.model} {self.width}/{self.ranks} = {self.n}"


SHARDS: Final = (
    Shard("Nemotron-3-Nano experts", 1856, 4),
    Shard("Nemotron-3-Nano experts", 1856, 2),
    Shard("Nemotron-3-Nano experts", 1856, 1),
    Shard("Nemotron-3-Nano hidden", 2688, 4),
    Shard("DeepSeek-V2-Lite experts", 1408, 8),
    Shard("DeepSeek-V2-Lite experts", 1408, 4),
    Shard("DeepSeek-V2-Lite dense MLP", 10944, 4),
    Shard("Qwen2.5-72B MLP", 29568, 8),
    Shard("Qwen2.5-72B MLP", 29568, 4),
)
"""Shards that were looked at; most need no padding, which is part of the answer."""

PADDED_SHARDS: Final = tuple(shard for shard in SHARDS if shard.needs_padding)
