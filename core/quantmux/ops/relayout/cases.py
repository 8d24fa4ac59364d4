"""Cases of ``relayout``: every pair of layouts of every operand, paddings, tile edges."""

from __future__ import annotations

from functools import cache
from itertools import permutations
from typing import TYPE_CHECKING

from quantmux.config import Layout, RelayoutConfig, default_layout, layouts_for, operand, round_up
from quantmux.ops.quantize.cases import EDGE_ROWS, TILE_ROWS, padded_widths, width_of
from quantmux.ops.spec import Case

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux.config import Operand


@cache
def cases() -> tuple[Case, ...]:
    """Give the cases of the op."""
    return (*_pairs(), *_paddings(), *_tile_edges(), *_contents(), *_real())


def _config(value: Operand, n: int, source: Layout, target: Layout) -> RelayoutConfig:
    return RelayoutConfig(operand=value, n=n, source=source, target=target)


def _pairs() -> Iterator[Case]:
    """Every layout into every other, at row counts where grids degenerate."""
    for name in ("fp8_group128", "fp8_group64_pow2", "nvfp4"):
        value = operand(name)
        n = width_of(value)
        plain = default_layout(value, n)
        for source, target in permutations(layouts_for(value), 2):
            made = _config(value, n, plain.replace(scales=source), plain.replace(scales=target))
            for m in EDGE_ROWS:
                yield Case(made, m, source="every pair of layouts")


def _paddings() -> Iterator[Case]:
    """Padding added and taken away; what is added is zero."""
    for name in ("fp8_tensor", "fp8_token", "fp8_group128", "fp8_group128_pow2", "int8_token",
                 "nvfp4"):  # fmt: skip
        value = operand(name)
        n = width_of(value)
        for layout in layouts_for(value):
            plain = default_layout(value, n).replace(scales=layout)
            wide = plain.replace(padded_n=padded_widths(value, n)[-1])
            tall = plain.replace(padded_m_multiple=16)
            yield Case(_config(value, n, plain, wide), 5, source="columns added")
            yield Case(_config(value, n, wide, plain), 5, source="columns taken away")
            yield Case(_config(value, n, plain, tall), 5, source="rows added")
            yield Case(_config(value, n, tall, wide), 5, source="rows away, columns added")
    nvfp4 = operand("nvfp4")
    for n in (1, 8, 40):
        plain = default_layout(nvfp4, n)
        target = plain.replace(scales="swizzled_8x4", padded_n=round_up(n, 64))
        yield Case(_config(nvfp4, n, plain, target), 3, source="partial blocks")


def _tile_edges() -> Iterator[Case]:
    """Row counts around every tile."""
    for name, source, target in (
        ("fp8_group128", "row_major", "col_major_aligned4"),
        ("fp8_group128_pow2", "row_major", "packed_pow2"),
        ("nvfp4", "row_major", "swizzled_128x4"),
        ("nvfp4", "swizzled_128x4", "swizzled_8x4"),
    ):
        value = operand(name)
        n = width_of(value)
        plain = default_layout(value, n)
        made = _config(value, n, plain.replace(scales=source), plain.replace(scales=target))
        for m in TILE_ROWS:
            yield Case(made, m, source="rows around the tile edges")


def _contents() -> Iterator[Case]:
    """NaN scales travel too, whatever their storage."""
    for name, target in (
        ("fp8_group128", "col_major_aligned4"),
        ("fp8_group128_pow2", "packed_pow2"),
        ("nvfp4", "swizzled_128x4"),
    ):
        value = operand(name)
        n = width_of(value)
        plain = default_layout(value, n)
        made = _config(value, n, plain, plain.replace(scales=target))
        back = _config(value, n, plain.replace(scales=target), plain)
        for kind in ("mixed", "zeros", "wide"):
            yield Case(made, 9, kind, source="special scales")
            yield Case(back, 9, kind, source="special scales")


def _real() -> Iterator[Case]:
    """Widths of real layers."""
    for name, n, target in (
        ("fp8_group128", 7168, "col_major_aligned4"),
        ("fp8_group128_pow2", 7168, "packed_pow2"),
        ("nvfp4", 14336, "swizzled_128x4"),
    ):
        value = operand(name)
        plain = default_layout(value, n)
        made = _config(value, n, plain, plain.replace(scales=target))
        yield Case(made, 1, source="a real layer, one token")
        yield Case(made, 16, source="a real layer, decode", is_small=False)
        yield Case(made, 1024, source="a real layer, prefill", is_small=False)
