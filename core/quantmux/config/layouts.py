"""Layouts: how an operand lies in memory. Pure integer arithmetic; the formulas are the contract.

``n`` is the row width of the quantized matrix (the K of the GEMM that reads it), ``padded_n ≥ n``
its stored width, ``padded_m ≥ m`` its stored rows. Every byte of the padded extents, of data and of
scales, is written and zero.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field, model_validator

from quantmux.config._base import Frozen, closest
from quantmux.config.formats import FORMAT_INFO, ElementFormat
from quantmux.config.operands import FULL, Operand
from quantmux.errors import ConfigError

ScaleLayoutName = Literal[
    "scalar",
    "row_major",
    "col_major",
    "col_major_aligned4",
    "packed_pow2",
    "swizzled_128x4",
    "swizzled_8x4",
]

SCALE_LAYOUTS: Final[tuple[str, ...]] = (
    "scalar",
    "row_major",
    "col_major",
    "col_major_aligned4",
    "packed_pow2",
    "swizzled_128x4",
    "swizzled_8x4",
)


def round_up(value: int, multiple: int) -> int:
    """Give the least multiple of ``multiple`` that is at least ``value``."""
    return -(-value // multiple) * multiple


class Layout(Frozen):
    """Scale layout and padding of one quantized matrix.

    Attributes:
        scales: Name of the scale layout; ``backend:name`` for a layout that a plugin defines.
        padded_n: Stored row width in elements.
        padded_m_multiple: Stored rows are the rows rounded up to this multiple.
    """

    scales: str
    padded_n: int = Field(gt=0)
    padded_m_multiple: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _known(self) -> Layout:
        if self.scales not in SCALE_LAYOUTS and ":" not in self.scales:
            near = closest(self.scales, SCALE_LAYOUTS)
            raise ConfigError(
                f'scale layout "{self.scales}" is not defined',
                facts=[
                    "defined: " + " ".join(SCALE_LAYOUTS),
                    "a plugin's own layout is spelled backend:name",
                ],
                hint=f'did you mean "{near}"?' if near else None,
            )
        return self

    def padded_m(self, m: int) -> int:
        """Give the stored rows for ``m`` rows."""
        return round_up(m, self.padded_m_multiple)

    def __str__(self) -> str:
        rows = f" m%{self.padded_m_multiple}" if self.padded_m_multiple > 1 else ""
        return f"{self.scales} padded_n={self.padded_n}{rows}"


def layouts_for(operand: Operand) -> tuple[str, ...]:
    """Give the scale layouts that are defined for the operand, the plainest first."""
    kind = operand.block.kind
    if operand.is_nvfp4:
        return ("row_major", "swizzled_128x4", "swizzled_8x4")
    if kind == "tensor":
        return ("scalar",)
    if kind == "row":
        return ("row_major",)
    if kind == "group":
        plain = ("row_major", "col_major", "col_major_aligned4")
        if operand.element is ElementFormat.INT8:
            return ("row_major",)
        return (*plain, "packed_pow2") if operand.scale_rounding == "pow2" else plain
    return ("row_major",)


def padding_multiple(operand: Operand) -> int:
    """Give the elements that ``padded_n`` must be a multiple of: the block width, 16 if full."""
    cols = operand.block.cols
    return 16 if cols == FULL else cols


def default_layout(operand: Operand, n: int) -> Layout:
    """Give the plainest layout: ``row_major`` (``scalar`` per tensor), padded to whole blocks.

    FP4 packs two elements in a byte and its blocks are never partial on disk or in memory, so
    its width is rounded up to 16; other operands keep ``n``.
    """
    padded_n = round_up(n, 16) if operand.is_nvfp4 else n
    return Layout(scales=layouts_for(operand)[0], padded_n=padded_n)


def check_layout(operand: Operand, layout: Layout, n: int) -> None:
    """Check that the operand can lie in the layout.

    Raises:
        ConfigError: The layout is not defined for the operand (code ``layout_undefined``), or
            ``padded_n`` is below ``n`` or not a multiple of the block width.
    """
    allowed = layouts_for(operand)
    if layout.scales not in allowed and ":" not in layout.scales:
        raise ConfigError(
            f"{operand.name} has no layout {layout.scales}",
            facts=["defined for it: " + " ".join(allowed)],
            hint=f'use layout="{allowed[0]}"',
            code="layout_undefined",
        )
    multiple = padding_multiple(operand)
    if layout.padded_n < n:
        raise ConfigError(
            f"padded_n = {layout.padded_n} is below n = {n}",
            hint=f"use padded_n={round_up(n, multiple)}",
            code="padded_n",
        )
    if layout.padded_n != n and layout.padded_n % multiple:
        raise ConfigError(
            f"padded_n = {layout.padded_n} is not a multiple of the block width {multiple}",
            facts=[f"operand {operand.name}, n = {n}"],
            hint=f"use padded_n={round_up(layout.padded_n, multiple)}",
            code="padded_n",
        )
    if operand.is_nvfp4 and layout.padded_n % 16:
        raise ConfigError(
            f"nvfp4 stores whole blocks of 16, found padded_n = {layout.padded_n}",
            hint=f"use padded_n={round_up(layout.padded_n, 16)}",
            code="padded_n",
        )


def data_shape(operand: Operand, layout: Layout, m: int) -> tuple[int, int]:
    """Give the shape of the data tensor, in its storage elements (bytes for FP4)."""
    per = FORMAT_INFO[operand.element].elements_per_byte
    return layout.padded_m(m), layout.padded_n // per


def scale_grid(operand: Operand, layout: Layout, m: int) -> tuple[int, int]:
    """Give the logical grid of scales over the stored extents [padded_m, padded_n]."""
    return operand.block.grid(layout.padded_m(m), layout.padded_n)


def scale_shape(operand: Operand, layout: Layout, m: int) -> tuple[int, ...]:
    """Give the shape of the scale tensor as it is handed around."""
    rows, cols = scale_grid(operand, layout, m)
    match layout.scales:
        case "scalar":
            return (1,)
        case "row_major" | "col_major" | "col_major_aligned4":
            return (rows, cols)
        case "packed_pow2":
            return (rows, -(-cols // 4))
        case "swizzled_128x4":
            return (round_up(layout.padded_m(m), 128), round_up(cols, 4))
        case "swizzled_8x4":
            return (round_up(layout.padded_m(m), 8), round_up(cols, 4))
        case _:
            raise ConfigError(f"{layout.scales} is a plugin's layout: only the plugin knows it")


def scale_strides(operand: Operand, layout: Layout, m: int) -> tuple[int, ...]:
    """Give the strides, in elements, of the tensor of `scale_shape`."""
    shape = scale_shape(operand, layout, m)
    rows = layout.padded_m(m)
    match layout.scales:
        case "scalar":
            return (1,)
        case "col_major":
            return (1, max(rows, 1))
        case "col_major_aligned4" | "packed_pow2":
            return (1, max(round_up(rows, 4), 1))
        case _:
            return (max(shape[1], 1), 1)


def scale_storage(operand: Operand, layout: Layout, m: int) -> int:
    """Give the elements of storage behind the scale tensor, the pad rows of aligned4 included."""
    shape = scale_shape(operand, layout, m)
    if layout.scales in ("col_major_aligned4", "packed_pow2"):
        return round_up(layout.padded_m(m), 4) * shape[1]
    total = 1
    for extent in shape:
        total *= extent
    return total


def swizzled_128x4_offset(m: int, k: int, padded_n: int) -> int:
    """Give the byte of the scale of row ``m``, block column ``k`` in `swizzled_128x4`."""
    kt = round_up(padded_n // 16, 4) // 4
    return ((m >> 7) * kt + (k >> 2)) * 512 + (m & 31) * 16 + ((m >> 5) & 3) * 4 + (k & 3)


def swizzled_8x4_offset(m: int, k: int, padded_n: int) -> int:
    """Give the byte of the scale of row ``m``, block column ``k`` in `swizzled_8x4`."""
    kt = round_up(padded_n // 16, 4) // 4
    return (m >> 3) * (kt * 32) + (k >> 2) * 32 + (m & 7) * 4 + (k & 3)


def layout_from(value: Any, operand: Operand, n: int, padded_n: int | None) -> Layout:
    """Build a layout from a name, a Layout, or None (the default layout of the operand)."""
    if isinstance(value, Layout):
        return value if padded_n is None else value.replace(padded_n=padded_n)
    base = default_layout(operand, n)
    return Layout(
        scales=base.scales if value is None else value,
        padded_n=base.padded_n if padded_n is None else padded_n,
    )
