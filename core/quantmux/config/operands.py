"""Operands: element format, block, and how the scale of a block is stored and rounded."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from quantmux.config._base import Frozen, closest
from quantmux.config.formats import FORMAT_INFO, ElementFormat
from quantmux.errors import ConfigError

FULL: Final = -1
"""A block extent that covers the whole dimension."""

GlobalScale = Literal["none", "static", "dynamic"]

_DEFAULT_EPS: Final = 1e-10
_LEAST_NORMAL: Final = 2.0**-126


class Block(Frozen):
    """Rows × columns that share one scale; -1 is the full extent.

    tensor (-1, -1) · token or channel (1, -1) · group (1, g) · block (r, c)
    """

    rows: int
    cols: int

    @field_validator("rows", "cols")
    @classmethod
    def _extent(cls, value: int) -> int:
        if value != FULL and value < 1:
            raise ConfigError(f"a block extent is -1 (full) or at least 1, found {value}")
        return value

    @property
    def kind(self) -> Literal["tensor", "row", "group", "block"]:
        """Name the granularity; ``row`` is per token (activations) or per channel (weights)."""
        if self.rows == FULL and self.cols == FULL:
            return "tensor"
        if self.rows == 1:
            return "row" if self.cols == FULL else "group"
        return "block"

    def __str__(self) -> str:
        """Give ``tensor``, ``row``, ``1x128``, ``128x128``."""
        if self.kind in ("tensor", "row"):
            return self.kind
        return "x".join("all" if e == FULL else str(e) for e in (self.rows, self.cols))

    def grid(self, rows: int, cols: int) -> tuple[int, int]:
        """Give the number of blocks along rows and columns; partial blocks count."""
        r = 1 if self.rows == FULL else -(-rows // self.rows)
        c = 1 if self.cols == FULL else -(-cols // self.cols)
        return r, c


class Operand(Frozen):
    """What the numbers of one quantized matrix mean; nothing about memory.

    Attributes:
        element: Format of one element.
        block: Elements that share a scale.
        scale_type: Format a block's scale is stored in.
        scale_rounding: ``pow2`` rounds scales up to powers of two (the UE8M0 values).
        dynamic: Scales come from the data of each call (True) or are given once (False).
        global_scale: Second-level scale of NVFP4: absent, given once, or from each call's data.
        eps: Floor of a block's amax, in the units of the data; at least 1e-35 and at least
            2^-126 · ``max_value`` (6.8e-34 for fp8_e5m2), so that the scale it gives is a normal
            fp32 number. Ignored for static scales. NVFP4 has none: only the default is accepted.
        scale_ub: Ceiling of a block's **amax** (never of the scale), or None. NVFP4 has none.

    A preset name is accepted wherever an operand is: ``fp8_tensor fp8_token fp8_channel
    fp8_group128 fp8_group64 fp8_block128 int8_token int8_channel nvfp4`` with ``_pow2``
    (fp8 dynamic scales), ``_static`` (fp8_tensor, nvfp4's global scale) appended.
    """

    element: ElementFormat
    block: Block
    scale_type: Literal["fp32", "e4m3"] = "fp32"
    scale_rounding: Literal["none", "pow2"] = "none"
    dynamic: bool = True
    global_scale: GlobalScale = "none"
    eps: float = Field(default=_DEFAULT_EPS, ge=1e-35, allow_inf_nan=False)
    scale_ub: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            element: ElementFormat | str,
            block: Block,
            scale_type: Literal["fp32", "e4m3"] = "fp32",
            scale_rounding: Literal["none", "pow2"] = "none",
            dynamic: bool = True,
            global_scale: GlobalScale = "none",
            eps: float = _DEFAULT_EPS,
            scale_ub: float | None = None,
        ) -> None: ...

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, value: Any) -> Any:
        return dict(operand(value)) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Operand:
        if self.element in (ElementFormat.BF16, ElementFormat.FP16):
            raise ConfigError(f"{self.element} is not quantized and takes no operand")
        is_fp4 = self.element is ElementFormat.FP4_E2M1
        if is_fp4 and (self.block != Block(rows=1, cols=16) or self.scale_type != "e4m3"):
            raise ConfigError("fp4_e2m1 needs blocks of 1x16 with e4m3 scales (NVFP4)")
        if is_fp4 and (self.eps != _DEFAULT_EPS or self.scale_ub is not None):
            raise ConfigError(
                "fp4_e2m1 (NVFP4) has neither eps nor scale_ub",
                facts={"found": f"eps={self.eps:g}, scale_ub={self.scale_ub}"},
                hint="leave both out; give a smaller global scale to bound what is represented",
            )
        if _fp32(self.eps) / self.max_value < _LEAST_NORMAL:
            raise ConfigError(
                f"eps is too small for {self.element}: its scale would be a subnormal fp32 number",
                facts={
                    "need": f"eps at least {_LEAST_NORMAL * self.max_value:.3g}",
                    "found": f"{self.eps:g}",
                },
            )
        if not is_fp4 and self.scale_type == "e4m3":
            raise ConfigError(f"e4m3 scales exist for fp4_e2m1 only, found {self.element}")
        if is_fp4 != (self.global_scale != "none"):
            raise ConfigError("a global scale belongs to fp4_e2m1, and fp4_e2m1 needs one")
        if self.scale_rounding == "pow2" and self.element is not ElementFormat.FP8_E4M3:
            raise ConfigError(f"pow2 scales are defined for fp8_e4m3, found {self.element}")
        return self

    @property
    def family(self) -> str:
        """Give the name without the question where scales come from (as for weights)."""
        plain = self.replace(
            dynamic=True, global_scale="none" if self.global_scale == "none" else "dynamic"
        )
        for preset, value in OPERANDS.items():
            if value == plain:
                return preset
        text = f"{self.element}[{self.block.rows}x{self.block.cols}]"
        if self.scale_rounding == "pow2":
            text += "_pow2"
        extra = []
        if self.eps != _DEFAULT_EPS:
            extra.append(f"eps={self.eps:g}")
        if self.scale_ub is not None:
            extra.append(f"scale_ub={self.scale_ub:g}")
        return text + (f"({','.join(extra)})" if extra else "")

    @property
    def name(self) -> str:
        """Give the preset name (``_static`` when a scale must be given), or a description."""
        is_static = not self.dynamic or self.global_scale == "static"
        return self.family + ("_static" if is_static else "")

    @property
    def max_value(self) -> float:
        """Largest finite magnitude of the element format."""
        return FORMAT_INFO[self.element].max_value

    @property
    def is_nvfp4(self) -> bool:
        """Tell whether this is the two-level FP4 format."""
        return self.element is ElementFormat.FP4_E2M1

    def __str__(self) -> str:
        return self.name


def _fp32(value: float) -> float:
    """Round to fp32, as kernels get it; what fp32 cannot hold is infinite."""
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.inf
    return rounded


def _presets() -> dict[str, Operand]:
    e4m3 = ElementFormat.FP8_E4M3
    int8 = ElementFormat.INT8
    tensor, row = Block(rows=FULL, cols=FULL), Block(rows=1, cols=FULL)
    dynamic = {
        "fp8_tensor": Operand(element=e4m3, block=tensor),
        "fp8_token": Operand(element=e4m3, block=row),
        "fp8_group128": Operand(element=e4m3, block=Block(rows=1, cols=128)),
        "fp8_group64": Operand(element=e4m3, block=Block(rows=1, cols=64)),
        "fp8_block128": Operand(element=e4m3, block=Block(rows=128, cols=128)),
    }
    presets = dict(dynamic)
    for name, value in dynamic.items():
        presets[f"{name}_pow2"] = value.replace(scale_rounding="pow2")
    presets["int8_token"] = Operand(element=int8, block=row)
    presets["int8_tensor"] = Operand(element=int8, block=tensor)
    presets["fp8_tensor_static"] = Operand(element=e4m3, block=tensor, dynamic=False)
    presets["int8_tensor_static"] = Operand(element=int8, block=tensor, dynamic=False)
    nvfp4 = Operand(
        element=ElementFormat.FP4_E2M1,
        block=Block(rows=1, cols=16),
        scale_type="e4m3",
        global_scale="dynamic",
    )
    presets["nvfp4"] = nvfp4
    presets["nvfp4_static"] = nvfp4.replace(global_scale="static")
    return presets


OPERANDS: Final[dict[str, Operand]] = {}
OPERANDS.update(_presets())

# The same rectangle has two names: a row of the activation is a token, of the weight a channel.
OPERAND_ALIASES: Final[dict[str, str]] = {
    "fp8_channel": "fp8_token",
    "fp8_channel_pow2": "fp8_token_pow2",
    "int8_channel": "int8_token",
}


def operand(name: str) -> Operand:
    """Give the preset operand of that name.

    Raises:
        ConfigError: The name is not a preset; names the closest one.
    """
    found = OPERANDS.get(OPERAND_ALIASES.get(name, name))
    if found is None:
        known = [*OPERANDS, *OPERAND_ALIASES]
        near = closest(name, known)
        raise ConfigError(
            f'operand "{name}" is not a preset',
            facts=["presets: " + " ".join(known)],
            hint=f'did you mean "{near}"?' if near else "pass an Operand(...) instead",
        )
    return found
