"""Operands as the kernels of this backend offer them."""

from __future__ import annotations

from typing import Final

from quantmux.capability.capability import OperandOffer, SchemeOffer
from quantmux.config.formats import ElementFormat
from quantmux.config.layouts import SCALE_LAYOUTS
from quantmux.config.operands import FULL, Block

E4M3: Final = ElementFormat.FP8_E4M3
E5M2: Final = ElementFormat.FP8_E5M2
INT8: Final = ElementFormat.INT8
FP4: Final = ElementFormat.FP4_E2M1

TENSOR: Final = Block(rows=FULL, cols=FULL)
ROW: Final = Block(rows=1, cols=FULL)
GROUP128: Final = Block(rows=1, cols=128)
BLOCK128: Final = Block(rows=128, cols=128)

_PLAIN_GROUP: Final = ("row_major", "col_major", "col_major_aligned4")
_NVFP4_LAYOUTS: Final = ("row_major", "swizzled_128x4", "swizzled_8x4")


def producer_offers() -> tuple[OperandOffer, ...]:
    """Give every operand and layout that the reference producers write."""
    offers: list[OperandOffer] = []
    for element in (E4M3, E5M2, INT8):
        for rounding in ("none", "pow2") if element == E4M3 else ("none",):
            offers += _producer_offers_of(element, rounding)
    offers.append(
        OperandOffer(
            element=FP4,
            block=Block(rows=1, cols=16),
            scale_type="e4m3",
            global_scales=("dynamic", "static"),
            layouts=_NVFP4_LAYOUTS,
        )
    )
    return tuple(offers)


def inverse_rope_offers() -> tuple[OperandOffer, ...]:
    """Give what ``inverse_rope_quantize`` may be asked for: e4m3 groups, power-of-two scales."""
    return (
        OperandOffer(
            element=E4M3,
            block=None,
            roundings=("pow2",),
            layouts=("col_major_aligned4", "packed_pow2"),
        ),
    )


def reads(element: ElementFormat, block: Block | None, *layouts: str) -> OperandOffer:
    """Give the offer of a reader: scales of any origin and rounding.

    Args:
        element: Format of the elements.
        block: Block; None reads any.
        layouts: Scale layouts in the order of preference; none means every layout.
    """
    is_fp4 = element == FP4
    return OperandOffer(
        element=element,
        block=block,
        scale_type="e4m3" if is_fp4 else "fp32",
        roundings=("none", "pow2") if element == E4M3 else ("none",),
        scale_modes=("dynamic", "static"),
        global_scales=("dynamic", "static") if is_fp4 else ("none",),
        layouts=layouts or SCALE_LAYOUTS,
    )


def float_schemes() -> tuple[SchemeOffer, ...]:
    """Give every pair of float operands, in any blocks and layouts, weight-only included."""
    formats = (E4M3, E5M2, FP4)
    return tuple(
        SchemeOffer(weight=reads(weight, None), activation=activation)
        for weight in formats
        for activation in (*(reads(a, None) for a in formats), None)
    )


def int_schemes() -> tuple[SchemeOffer, ...]:
    """Give int8 by int8 in any blocks and layouts, and int8 weight-only."""
    weight = reads(INT8, None)
    return (SchemeOffer(weight=weight, activation=reads(INT8, None)), SchemeOffer(weight=weight))


def _producer_offers_of(element: ElementFormat, rounding: str) -> list[OperandOffer]:
    def offer(block: Block | None, layouts: tuple[str, ...], *modes: str) -> OperandOffer:
        # OperandOffer.__init__ validates, so the literals need no cast here
        fields: dict[str, object] = {"roundings": (rounding,), "scale_modes": modes or ("dynamic",)}
        return OperandOffer(element=element, block=block, layouts=layouts, **fields)  # type: ignore[arg-type]

    if element == INT8:
        groups: tuple[str, ...] = ("row_major",)
    else:
        groups = (*_PLAIN_GROUP, "packed_pow2") if rounding == "pow2" else _PLAIN_GROUP
    return [
        offer(TENSOR, ("scalar",), "dynamic", "static"),
        offer(ROW, ("row_major",)),
        offer(None, groups),
    ]
