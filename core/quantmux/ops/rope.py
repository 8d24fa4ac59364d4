"""What the ops with a rotation share: their inputs, the cos/sin cache, and its checks."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.errors import DtypeError, InputError, ShapeError
from quantmux.ops.checks import check_device, check_dtype
from quantmux.ops.inputs import make_matrix

if TYPE_CHECKING:
    from quantmux.config import InverseRopeQuantizeConfig, RopeQuantizeConfig
    from quantmux.ops.spec import Case

CACHE_ROWS: Final = 4096
"""Positions in the cos/sin cache of test inputs."""


@cache
def make_cos_sin_cache(rows: int, rope_dim: int, base: float = 10000.0) -> torch.Tensor:
    """Give a RoPE cache fp32 [rows, rope_dim] = cos | sin; the same tensor each time."""
    half = torch.arange(0, rope_dim, 2, dtype=torch.float64) / rope_dim
    angles = torch.arange(rows, dtype=torch.float64)[:, None] * base**-half
    return torch.cat((angles.cos(), angles.sin()), dim=1).to(torch.float32)


def make_heads(
    case: Case, device: torch.device | str, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Give heads [T, heads, head_dim], positions [T] and the cache [P, rope_dim] of a case."""
    config = case.config
    x = make_matrix(
        case.kind,
        case.m * config.heads,
        config.head_dim,
        config.in_dtype,
        magnitude=case.magnitude,
        seed=seed,
        device=device,
    )
    generator = torch.Generator().manual_seed(seed + 1)
    positions = torch.randint(0, CACHE_ROWS, (case.m,), generator=generator)
    return (
        x.view(case.m, config.heads, config.head_dim),
        positions.to(device),
        make_cos_sin_cache(CACHE_ROWS, config.rope_dim).to(device),
    )


def check_rope_inputs(
    x: Any,
    positions: Any,
    cos_sin_cache: Any,
    config: InverseRopeQuantizeConfig | RopeQuantizeConfig,
    *,
    name: str,
    reads_positions: bool,
) -> None:
    """Check heads, positions and cache against a config.

    Args:
        x: Heads [T, heads, head_dim].
        positions: int64 [T].
        cos_sin_cache: fp32 [P, rope_dim].
        config: Heads and dimensions.
        name: What the op calls its heads, for messages.
        reads_positions: Look at the values of positions, which waits for a GPU.

    Raises:
        ShapeError: A shape disagrees with the config.
        DtypeError: A dtype disagrees with the config.
        InputError: A position is outside the cache, one is no tensor, or devices differ.
    """
    for value, what in ((x, name), (positions, "positions"), (cos_sin_cache, "cos_sin_cache")):
        if not isinstance(value, torch.Tensor):
            raise InputError(f"{what} needs to be a tensor, found {type(value).__name__}")
    if x.ndim != 3 or tuple(x.shape[1:]) != (config.heads, config.head_dim):
        raise ShapeError(
            f"{name} has the wrong shape",
            facts={"need": f"[T, {config.heads}, {config.head_dim}]", "found": list(x.shape)},
        )
    check_dtype(x, config.in_dtype, name)
    t = x.shape[0]
    if tuple(positions.shape) != (t,):
        raise ShapeError(
            "positions has the wrong shape", facts={"need": [t], "found": list(positions.shape)}
        )
    if positions.dtype != torch.int64:
        raise DtypeError(f"positions needs int64, found {positions.dtype}")
    if cos_sin_cache.ndim != 2 or cos_sin_cache.shape[1] != config.rope_dim:
        raise ShapeError(
            "cos_sin_cache has the wrong shape",
            facts={"need": f"[P, {config.rope_dim}]", "found": list(cos_sin_cache.shape)},
        )
    check_dtype(cos_sin_cache, "fp32", "cos_sin_cache")
    check_device(positions, "positions", x.device)
    check_device(cos_sin_cache, "cos_sin_cache", x.device)
    rows = cos_sin_cache.shape[0]
    if not (t and reads_positions):
        return
    low, high = int(positions.min()), int(positions.max())
    if low < 0 or high >= rows:
        raise InputError(
            "a position is outside cos_sin_cache",
            facts={"need": f"0 … {rows - 1}", "found": f"{low} … {high}"},
            code="positions",
        )
