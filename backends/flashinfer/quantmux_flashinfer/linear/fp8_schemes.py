"""Operands that the FP8 linears read."""

from __future__ import annotations

from typing import Final

from quantmux.capability.capability import OperandOffer, SchemeOffer
from quantmux.config.formats import ElementFormat
from quantmux.config.operands import FULL, Block

E4M3: Final = ElementFormat.FP8_E4M3
E5M2: Final = ElementFormat.FP8_E5M2

_TENSOR: Final = Block(rows=FULL, cols=FULL)
_GROUP128: Final = Block(rows=1, cols=128)
_BLOCK128: Final = Block(rows=128, cols=128)


def _reads(element: ElementFormat, block: Block, layout: str) -> OperandOffer:
    return OperandOffer(
        element=element,
        block=block,
        roundings=("none", "pow2") if element == E4M3 else ("none",),
        scale_modes=("dynamic", "static"),
        layouts=(layout,),
    )


def _by_tensor(weight: ElementFormat, activation: ElementFormat) -> SchemeOffer:
    return SchemeOffer(
        weight=_reads(weight, _TENSOR, "scalar"), activation=_reads(activation, _TENSOR, "scalar")
    )


TENSOR: Final = (_by_tensor(E4M3, E4M3),)
"""One scale of the weights, one of x."""

TENSOR_MIXED: Final = (*TENSOR, _by_tensor(E4M3, E5M2), _by_tensor(E5M2, E4M3))
"""With either of them in e5m2; cuBLASLt does not multiply e5m2 by e5m2."""

BLOCK: Final = (
    SchemeOffer(
        weight=_reads(E4M3, _BLOCK128, "row_major"),
        activation=_reads(E4M3, _GROUP128, "col_major_aligned4"),
    ),
)
"""128x128 blocks of the weights, groups of 128 of x."""

BLOCK_INSIDE: Final = (
    SchemeOffer(
        weight=_reads(E4M3, _BLOCK128, "row_major"),
        activation=OperandOffer(
            element=E4M3,
            block=_GROUP128,
            # It has no floor: a group whose amax is below 1e-10 keeps values that the definition
            # rounds away. All of that is less than 1e-10 of the weights' sum.
            any_eps=False,
            eps=1e-10,
            takes_scale_ub=False,
            layouts=("row_major",),
        ),
        quantizes_inside=True,
    ),
)
"""The same of a plain x: codes and scales of it are made inside."""
