"""Cases of ``quantize``: the edges first, real layers last. No combination is invalid."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from quantmux.config import (
    Block,
    ElementFormat,
    Operand,
    QuantizeConfig,
    layouts_for,
    operand,
    round_up,
)
from quantmux.config.layouts import padding_multiple
from quantmux.ops.spec import Case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OPERANDS: Final = (
    "fp8_tensor",
    "fp8_tensor_static",
    "fp8_token",
    "fp8_group128",
    "fp8_group64",
    "fp8_tensor_pow2",
    "fp8_token_pow2",
    "fp8_group128_pow2",
    "fp8_group64_pow2",
    "int8_tensor",
    "int8_tensor_static",
    "int8_token",
    "nvfp4",
    "nvfp4_static",
)
"""Every activation preset."""

EDGE_ROWS: Final = (0, 1, 7, 33)
"""No row, one row, and two odd counts on either side of a tile of 8 and of 32."""

TILE_ROWS: Final = (8, 9, 31, 32, 127, 128, 129)
"""Around the tiles of 8 (8x4), of 4 (aligned4) and of 128 rows (128x4)."""

AWKWARD_SCALE: Final = 7.0 * 2.0**-9
"""A static scale whose products with halfway points are exact in bf16; its reciprocal is not."""

REAL_WIDTHS: Final = (
    (7168, "DeepSeek-V3 hidden size"),
    (2048, "DeepSeek-V3 expert intermediate size"),
    (1536, "DeepSeek-V3 query LoRA rank"),
    (4096, "Llama-3.1-8B hidden size"),
    (14336, "Llama-3.1-8B intermediate size"),
    (1368, "a width that no tile divides"),
)


def width_of(value: Operand) -> int:
    """Give a small row width of whole blocks whose scale columns do not fill a word of four."""
    multiple = padding_multiple(value)
    return multiple * (3 if multiple > 16 else 5)


def padded_widths(value: Operand, n: int) -> tuple[int, ...]:
    """Give the padded widths to try beyond n: the next 16, 32, 64 and 128 that the block allows."""
    multiple = padding_multiple(value)
    wanted = (n + 16, round_up(n, 32), round_up(n, 64), round_up(n, 128), n + 4 * multiple)
    return tuple(sorted({round_up(w, multiple) for w in wanted} - {n}))


def producer_cases(config: Callable[..., Any]) -> Iterator[Case]:
    """Give the cases that all producers of rows share.

    Args:
        config: The producer's config class, taking ``operand=, n=, layout=, padded_n=, …``.
    """
    yield from _every_layout(config)
    yield from _padding(config)
    yield from _tile_edges(config)
    yield from _contents(config)
    yield from _attributes(config)
    yield from _odd_widths(config)
    yield from _real(config)


@cache
def cases() -> tuple[Case, ...]:
    """Give the cases of the op."""
    return tuple(producer_cases(QuantizeConfig))


def _every_layout(config: Callable[..., Any]) -> Iterator[Case]:
    """Every operand in every layout, at row counts where grids and pad rows degenerate."""
    for name in OPERANDS:
        value = operand(name)
        for layout in layouts_for(value):
            made = config(operand=name, n=width_of(value), layout=layout)
            for m in EDGE_ROWS:
                yield Case(made, m, source="every layout, few and odd rows")


def _padding(config: Callable[..., Any]) -> Iterator[Case]:
    """Padded columns and rows in every layout: they must be zero, whatever the buffer held."""
    for name in ("fp8_tensor", "fp8_token", "fp8_group128", "fp8_group128_pow2", "int8_token"):
        value = operand(name)
        n = width_of(value)
        for layout in layouts_for(value):
            padded_n = padded_widths(value, n)[-1]
            yield Case(config(operand=name, n=n, layout=layout, padded_n=padded_n), 5,
                       source="wholly padded blocks")  # fmt: skip
    for layout in layouts_for(operand("nvfp4")):
        for n in (16, 80, 112, 128):  # K/16 % 4 = 1, 1, 3, 0
            for padded_n in padded_widths(operand("nvfp4"), n):
                yield Case(config(operand="nvfp4", n=n, layout=layout, padded_n=padded_n), 9,
                           source="padded_n in {n+16, R32, R64, R128}")  # fmt: skip
    for name in OPERANDS:
        value = operand(name)
        for layout in layouts_for(value):
            made = config(operand=name, n=width_of(value), layout=layout, padded_m_multiple=16)
            yield Case(made, 5, source="padded rows")


def _tile_edges(config: Callable[..., Any]) -> Iterator[Case]:
    """Row counts around every tile of every layout that has tiles."""
    for name in ("fp8_group128", "fp8_group128_pow2", "nvfp4"):
        value = operand(name)
        for layout in layouts_for(value)[1:]:
            made = config(operand=name, n=width_of(value), layout=layout)
            for m in TILE_ROWS:
                yield Case(made, m, source="rows around the tile edges")


def _contents(config: Callable[..., Any]) -> Iterator[Case]:
    """What the numbers are: magnitudes, special matrices, non-finite values, all input dtypes."""
    for name in OPERANDS:
        value = operand(name)
        n = width_of(value)
        plain = config(operand=name, n=n)
        for magnitude in (1e-8, 1e-4, 1e4):
            yield Case(plain, 9, magnitude=magnitude, source="magnitudes")
        yield Case(plain, 9, magnitude=1e-12, source="below the floor eps")
        if value.is_nvfp4:
            yield Case(plain, 9, magnitude=1e-20, source="below the floor of the global scale")
        for kind in (
            "zeros",
            "signed_zeros",
            "equal",
            "one_hot",
            "outliers",
            "wide",
            "pow2_edges",
            "ties",
        ):
            yield Case(plain, 9, kind, source="special matrices")
        yield Case(plain, 300, "rising", source="the largest element is the last")
        for dtype in ("bf16", "fp16", "fp32") if not value.dynamic else ():
            made = config(operand=name, n=n, in_dtype=dtype)
            yield Case(made, 9, "ties", magnitude=AWKWARD_SCALE, source="x * (1 / s) is not x / s")
        for kind in ("nan", "inf", "mixed"):
            yield Case(plain, 9, kind, source="non-finite: only its own block is spoiled")
        for dtype in ("fp16", "fp32"):
            other = config(operand=name, n=n, in_dtype=dtype)
            yield Case(other, 9, source="input formats")
            yield Case(other, 9, "wide", source="input formats, subnormal results")
            for kind in ("pow2_edges", "ties"):
                yield Case(other, 9, kind, source="input formats, neighbours of an edge")
        yield Case(config(operand=name, n=n, in_dtype="fp32"), 3, magnitude=1e36,
                   source="near the end of fp32")  # fmt: skip


def _attributes(config: Callable[..., Any]) -> Iterator[Case]:
    """Operand attributes: the floor, the ceiling of amax, other formats and group sizes."""
    for name in ("fp8_token", "fp8_group128", "fp8_group128_pow2", "int8_token"):
        base = operand(name)
        for changes in ({"eps": 0.5}, {"scale_ub": 1.0}, {"eps": 1e-4, "scale_ub": 0.25}):
            changed = base.replace(**changes)
            yield Case(config(operand=changed, n=width_of(base)), 7, source="eps and scale_ub")
    e5m2 = ElementFormat.FP8_E5M2
    for block in (Block(rows=-1, cols=-1), Block(rows=1, cols=-1), Block(rows=1, cols=128)):
        value = Operand(element=e5m2, block=block)
        yield Case(config(operand=value, n=width_of(value)), 7, source="fp8_e5m2")
    for cols in (16, 32, 256):
        value = operand("fp8_group128").replace(block=Block(rows=1, cols=cols))
        yield Case(config(operand=value, n=width_of(value)), 7, source="other group sizes")


def _odd_widths(config: Callable[..., Any]) -> Iterator[Case]:
    """Widths that are no multiple of the block or of a vector; partial blocks are legal."""
    for name in ("fp8_token", "fp8_tensor", "int8_token"):
        for n in (1, 3, 17, 129):
            yield Case(config(operand=name, n=n), 5, source="odd widths")
        yield Case(config(operand=name, n=72, padded_n=80), 5, source="odd widths, padded to 16")
    for name in ("fp8_group128", "fp8_group64_pow2"):
        for n in (1, 72, 200):
            yield Case(config(operand=name, n=n), 5, source="partial groups")
        yield Case(config(operand=name, n=200, padded_n=256), 5, source="partial groups, padded")
    for layout in layouts_for(operand("nvfp4")):
        for n in (2, 8, 40, 72):
            yield Case(config(operand="nvfp4", n=n, layout=layout), 5, source="partial blocks")
    yield Case(config(operand="nvfp4", n=1), 3, source="the odd last code shares its byte")


def _real(config: Callable[..., Any]) -> Iterator[Case]:
    """Widths of real layers, at decode and prefill row counts."""
    for n, source in REAL_WIDTHS:
        for name in ("fp8_token", "fp8_group128", "fp8_group128_pow2", "int8_token", "nvfp4"):
            value = operand(name)
            layout = layouts_for(value)[-1]
            padded_n = round_up(n, padding_multiple(value))
            made = config(operand=name, n=n, layout=layout, padded_n=padded_n)
            yield Case(made, 1, source=f"{source}, one token")
            yield Case(made, 16, source=f"{source}, decode", is_small=False)
            yield Case(made, 1024, source=f"{source}, prefill", is_small=False)
