"""The cells that are looked at: linears of served models, by number of rows, by scheme."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.bench.rows import BenchCase
from quantmux.bench.shapes import MODELS
from quantmux.config import LinearConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.bench.shapes import Shape

GRID_MODELS: Final = ("qwen3-8b", "dsv3", "llama3-8b")
"""Whose linears are looked at; those of the first come first, should time run out."""

GRID_MS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
GRID_SCHEMES: Final = ("fp8_block128", "fp8_channel_token")

QUICK_SHAPES: Final[tuple[Shape, ...]] = ((64, 128), (128, 256))
QUICK_GRID_MS: Final = (1, 16)
"""For a look at the plumbing on a machine without a GPU."""


def grid_shapes(models: Sequence[str] = GRID_MODELS) -> tuple[Shape, ...]:
    """Give the linears (N, K) of models, each once."""
    return tuple(dict.fromkeys(shape for name in models for shape in MODELS[name]))


def grid_cases(
    schemes: Sequence[str], shapes: Sequence[Shape], ms: Sequence[int]
) -> tuple[BenchCase, ...]:
    """Give the cells: shape by shape, all schemes of one before the next, all Ms of one config.

    So what is left out when time runs out is a shape in all schemes, not a scheme.
    """
    configs = [
        LinearConfig(out_features=n, in_features=k, scheme=scheme)
        for n, k in shapes
        for scheme in schemes
    ]
    return tuple(BenchCase(config, m) for config in configs for m in ms)


def models_of(shape: Shape) -> tuple[str, ...]:
    """Give the models of the grid that have a linear of this shape."""
    return tuple(name for name in GRID_MODELS if shape in MODELS[name])
