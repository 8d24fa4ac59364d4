"""Why a kernel does not serve, as data: equality and codes, not text."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self


class RejectionCode(StrEnum):
    """Stable reasons. Programs compare these; people read the other fields."""

    ARCH = "arch"
    SCHEME = "scheme"
    OPERAND = "operand"
    SCALE_ROUNDING = "scale_rounding"
    SCALE_UB = "scale_ub"
    EPS = "eps"
    GLOBAL_SCALE = "global_scale"
    ACCUMULATION = "accumulation"
    LAYOUT = "layout"
    LAYOUT_UNDEFINED = "layout_undefined"
    PADDED_N = "padded_n"
    PADDED_M = "padded_m"
    ALIGN_N = "align_n"
    ALIGN_K = "align_k"
    M_RANGE = "m_range"
    M_MULTIPLE = "m_multiple"
    IN_DTYPE = "in_dtype"
    OUT_DTYPE = "out_dtype"
    BIAS = "bias"
    OUTPUT_STRIDE = "output_stride"
    NEEDS_PACKAGE = "needs_package"
    NEEDS_TOOL = "needs_tool"
    UNAVAILABLE = "unavailable"
    NOT_BUILT = "not_built"
    NO_PRODUCER = "no_producer"
    LOSSY = "lossy"
    DENIED = "denied"
    NOT_FORCED = "not_forced"
    EVIDENCE = "evidence"
    QUARANTINED = "quarantined"
    VETO = "veto"
    PLUGIN_ERROR = "plugin_error"
    WEIGHT_LAYOUT = "weight_layout"
    OUTRANKED = "outranked"


# not a pydantic model: selection builds hundreds of them, and its budget is 5 ms
@dataclass(frozen=True, slots=True)
class Rejection:
    """One reason why one kernel does not serve one config on one device.

    Attributes:
        code: The stable reason.
        field: What was looked at, e.g. ``in_features``.
        required: What the kernel needs, as text.
        actual: What was found, as text.
        hint: What would make it fit; of an outranked kernel the measured times that decided.
            None where there is nothing to say.
        m_min: First M for which it holds.
        m_max: Last M for which it holds; None is unbounded.
    """

    code: RejectionCode
    field: str
    required: str
    actual: str
    hint: str | None = None
    m_min: int = 1
    m_max: int | None = None

    @property
    def text(self) -> str:
        """Say need against value; the field is named where the code does not name it already."""
        field = "" if self.field == self.code else f"{self.field} "
        return f"{field}needs {self.required}, found {self.actual}"

    def __str__(self) -> str:
        text = f"{self.code}: {self.text}"
        return text + (f" ({self.hint})" if self.hint else "")

    def to_dict(self) -> dict[str, Any]:
        """Give the rejection as JSON-ready data."""
        return {
            "code": str(self.code),
            "field": self.field,
            "required": self.required,
            "actual": self.actual,
            "hint": self.hint,
            "m_min": self.m_min,
            "m_max": self.m_max,
        }

    def replace(self, **changes: Any) -> Self:
        """Give a copy with some fields changed."""
        return dataclasses.replace(self, **changes)
