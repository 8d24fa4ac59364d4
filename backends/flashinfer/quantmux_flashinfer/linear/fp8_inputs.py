"""What a quantized x is held to in every call, before a library that does not look reads it.

Bound functions compare strides and addresses, which takes 0.3 µs, and come here when something is
unusual.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux.errors import LayoutError

if TYPE_CHECKING:
    from quantmux.ops.quantized import QuantizedTensor

_ALIGNMENT = 16
"""Bytes: what a TMA descriptor wants of the first element."""


def require_readable(q: QuantizedTensor, layout: str) -> None:
    """Check that codes and scales lie as a scale layout has them, from 16 bytes on.

    Strides along an extent of 1 address nothing, and may be any.

    Raises:
        LayoutError: Another layout, strides, or a beginning at no multiple of 16 bytes.
        ShapeError: Another shape than the layout's.
        DtypeError: Another dtype than the layout's.
    """
    if q.layout.scales != layout:
        raise LayoutError(
            "x has another scale layout than this kernel reads",
            facts={"need": layout, "found": q.layout.scales},
            hint="quantize with the config of Linear.input_layout(m), or relayout it",
        )
    q.check()
    parts = {"codes": q.data} if layout == "scalar" else {"codes": q.data, "scales": q.scales}
    for name, tensor in parts.items():
        beyond = tensor.data_ptr() % _ALIGNMENT
        if beyond:
            raise LayoutError(
                f"{name} of x need to begin at a multiple of {_ALIGNMENT} bytes",
                facts={"found": f"{beyond} bytes after one"},
                hint="copy the part of a larger tensor first, or quantize into its own memory",
            )
