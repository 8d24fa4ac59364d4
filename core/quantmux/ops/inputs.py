"""Inputs of test cases: the same numbers for the same seed on every device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import torch

from quantmux.errors import ConfigError
from quantmux.ops.quantized import DTYPES

if TYPE_CHECKING:
    from quantmux.config import Operand

_Fill = Callable[[int, int, torch.Generator], torch.Tensor]


def make_matrix(
    kind: str,
    m: int,
    n: int,
    dtype: str,
    *,
    magnitude: float = 1.0,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Give a matrix [m, n] of a kind; values beyond the dtype's range are saturated.

    Args:
        kind: A name of `KINDS`.
        m: Rows.
        n: Columns.
        dtype: Name of a plain dtype.
        magnitude: Size of typical elements.
        seed: Of the generator; the numbers are drawn on the CPU.
        device: Where the matrix shall be.

    Raises:
        ConfigError: There is no such kind.
    """
    fill = KINDS.get(kind)
    if fill is None:
        raise ConfigError(f'no inputs of kind "{kind}"', facts=["kinds: " + " ".join(KINDS)])
    generator = torch.Generator().manual_seed(seed)
    values = fill(m, n, generator) * magnitude
    limit = torch.finfo(DTYPES[dtype]).max
    saturated = torch.where(torch.isfinite(values), values.clamp(-limit, limit), values)
    return saturated.to(DTYPES[dtype]).to(device)


def static_scale(operand: Operand, magnitude: float, device: torch.device | str) -> torch.Tensor:
    """Give a static scale (fp32 [1]) under which a few normal inputs saturate."""
    value = 2.5 * magnitude / operand.max_value
    return torch.tensor([value], dtype=torch.float32, device=device)


def static_global_scale(magnitude: float, device: torch.device | str) -> torch.Tensor:
    """Give an NVFP4 multiplier g (fp32 [1]) under which a few normal blocks saturate."""
    return torch.tensor([2.5 * magnitude / 2688.0], dtype=torch.float32, device=device)


def _randn(m: int, n: int, generator: torch.Generator) -> torch.Tensor:
    # device and dtype are named: a program may have set other defaults
    return torch.randn(m, n, generator=generator, dtype=torch.float32, device="cpu")


def _rand(m: int, n: int, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(m, n, generator=generator, dtype=torch.float32, device="cpu")


def _normal(m: int, n: int, generator: torch.Generator) -> torch.Tensor:
    return _randn(m, n, generator)


def _positive(m: int, n: int, generator: torch.Generator) -> torch.Tensor:
    return _rand(m, n, generator)


def _zeros(m: int, n: int, _: torch.Generator) -> torch.Tensor:
    return torch.zeros(m, n, dtype=torch.float32, device="cpu")


def _equal(m: int, n: int, _: torch.Generator) -> torch.Tensor:
    return torch.ones(m, n, dtype=torch.float32, device="cpu")


def _one_hot(m: int, n: int, _: torch.Generator) -> torch.Tensor:
    values = torch.zeros(m, n, dtype=torch.float32, device="cpu")
    rows = torch.arange(m)
    values[rows, (rows * 7 + n - 1) % n] = 1.0
    return values


def _outliers(m: int, n: int, generator: torch.Generator) -> torch.Tensor:
    values = _randn(m, n, generator)
    hit = _rand(m, n, generator) < 0.01
    return torch.where(hit, values * 1000.0, values)


def _wide(m: int, n: int, generator: torch.Generator) -> torch.Tensor:
    exponent = _rand(m, n, generator) * 24.0 - 16.0
    return _randn(m, n, generator) * torch.exp2(exponent)


def _pow2_edges(m: int, n: int, generator: torch.Generator) -> torch.Tensor:
    """Give rows whose largest element is 448 · 2^k, or the neighbour of it in 16 or 32 bit."""
    values = _rand(m, n, generator) * 300.0
    rows = torch.arange(m)
    step = torch.tensor([1.0, 1.0 - 2.0**-8, 1.0 + 2.0**-7, 1.0 + 2.0**-23, 1.0 - 2.0**-24])
    values[:, 0] = 448.0 * step[rows % 5]
    # log2 of a scale this far from 1 has no bits left for its neighbours
    return values * torch.exp2((rows % 9 * 2 - 12).to(torch.float32)).unsqueeze(1)


def _ties(m: int, n: int, _: torch.Generator) -> torch.Tensor:
    """Give rows that, divided by their scale, lie halfway between two codes.

    By turns for int8, e4m3, e2m1, and for the e4m3 scales of NVFP4, where 32 bit show a neighbour
    of the halfway point. Every block of 16 holds the element that its scale comes from.
    """
    column, kind = torch.arange(n), torch.arange(m) % 4
    i, exponent = column % 8, column // 8 % 14 - 6
    of_e2m1 = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])[column % 7]
    halves = torch.stack(
        (
            column % 126 + 0.5,
            torch.exp2(exponent.to(torch.float32)) * (1.0 + (2 * i + 1) / 16.0),
            of_e2m1,
            of_e2m1,
        )
    )
    values = halves[kind] * torch.where(column // 3 % 2 == 0, 1.0, -1.0)
    peaks = torch.tensor([127.0, 448.0, 6.0, 0.0])[kind].unsqueeze(1).repeat(1, -(-n // 16))
    of_scale = 6.0 * (17.0 + 2.0 * (torch.arange(peaks.shape[1]) % 8)) * (1.0 - 2.0**-24)
    peaks[3::4] = of_scale
    peaks[3::4, -1] = 2688.0  # g = 1
    values[:, ::16] = peaks
    return values


def _rising(m: int, n: int, _: torch.Generator) -> torch.Tensor:
    """Give elements that grow from the first to the last, whose sign alternates.

    Who looks for the largest in a part of them finds another one.
    """
    place = torch.arange(1, m * n + 1, dtype=torch.float32, device="cpu").reshape(m, n)
    return place / max(m * n, 1) * torch.where(place % 2 == 0, 1.0, -1.0)


def _signed_zeros(m: int, n: int, generator: torch.Generator) -> torch.Tensor:
    """Give normal values among zeros of either sign; the last rows hold nothing but zeros."""
    values = _randn(m, n, generator)
    zeros = torch.where(_rand(m, n, generator) < 0.5, 0.0, -0.0)
    mixed = torch.where(_rand(m, n, generator) < 0.5, values, zeros)
    mixed[m // 2 :] = zeros[m // 2 :]
    return mixed


def _nan(m: int, n: int, generator: torch.Generator) -> torch.Tensor:
    return _spoiled(m, n, generator, (torch.nan,))


def _inf(m: int, n: int, generator: torch.Generator) -> torch.Tensor:
    return _spoiled(m, n, generator, (torch.inf, -torch.inf))


def _mixed(m: int, n: int, generator: torch.Generator) -> torch.Tensor:
    return _spoiled(m, n, generator, (torch.inf, torch.nan, -torch.inf))


def _spoiled(m: int, n: int, generator: torch.Generator, bad: tuple[float, ...]) -> torch.Tensor:
    """Give normal values with one bad element in every third row; the other rows are clean."""
    values = _randn(m, n, generator)
    for i, row in enumerate(range(0, m, 3)):
        values[row, (row * 37 + n - 1) % n] = bad[i % len(bad)]
    return values


KINDS: Final[dict[str, _Fill]] = {
    "normal": _normal,
    "positive": _positive,
    "zeros": _zeros,
    "equal": _equal,
    "one_hot": _one_hot,
    "outliers": _outliers,
    "wide": _wide,
    "pow2_edges": _pow2_edges,
    "ties": _ties,
    "rising": _rising,
    "signed_zeros": _signed_zeros,
    "nan": _nan,
    "inf": _inf,
    "mixed": _mixed,
}
"""What inputs can hold, by name."""
