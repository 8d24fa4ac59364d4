"""What layer configs share: their digest, and the operand and layout of every producer."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from quantmux.config._base import Frozen
from quantmux.config.formats import Dtype
from quantmux.config.layouts import Layout, check_layout, default_layout
from quantmux.config.operands import Operand
from quantmux.errors import ConfigError

Extent = Annotated[int, Field(gt=0, le=2**31 - 1, strict=True)]
"""A number of rows or columns: an int, never a float or a bool, and addressable by kernels."""


class LayerBase(Frozen):
    """A layer config of any op."""

    def digest(self) -> str:
        """Give a short stable hash of the config, the same in every process."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


class ProducerBase(LayerBase):
    """What all producers share: operand and layout of the quantized matrix [M, n]."""

    operand: Operand
    n: Extent
    layout: Layout
    in_dtype: Dtype = "bf16"

    _default_scales: ClassVar[str | None] = None  # None: the plainest of the operand

    @model_validator(mode="before")
    @classmethod
    def _fold_layout(cls, value: Any) -> Any:
        """Accept ``layout="name"``, ``padded_n=`` and ``padded_m_multiple=`` beside a Layout."""
        if not isinstance(value, dict):
            return value
        data = dict(value)
        name, padded_n = data.pop("layout", cls._default_scales), data.pop("padded_n", None)
        multiple = data.pop("padded_m_multiple", None)
        if isinstance(name, dict):
            name = Layout(**name)
        if name is not None and not isinstance(name, Layout | str):
            raise ConfigError(f"layout is a name or a Layout, found {name!r}")
        n = cls._row_width(data)
        if n is None or "operand" not in data:
            data["layout"] = (
                name if isinstance(name, Layout) else Layout(scales="scalar", padded_n=1)
            )
            return data  # the missing field is reported by pydantic
        operand = Operand.model_validate(data["operand"])
        base = name if isinstance(name, Layout) else default_layout(operand, n)
        changes: dict[str, Any] = {}
        if isinstance(name, str):
            changes["scales"] = name
        if padded_n is not None:
            changes["padded_n"] = padded_n
        if multiple is not None:
            changes["padded_m_multiple"] = multiple
        data["operand"] = operand
        data["layout"] = base.replace(**changes) if changes else base
        return data

    @classmethod
    def _row_width(cls, data: dict[str, Any]) -> int | None:
        n = data.get("n")
        return n if isinstance(n, int) and n > 0 else None

    @model_validator(mode="after")
    def _layout_fits(self) -> ProducerBase:
        if self.operand.block.kind == "block":
            raise ConfigError(
                f"{self.operand.name} is a weight operand: a producer quantizes rows "
                "(tensor, token, group or nvfp4)"
            )
        check_layout(self.operand, self.layout, self.n)
        return self

    @property
    def padded_n(self) -> int:
        """Stored row width."""
        return self.layout.padded_n
