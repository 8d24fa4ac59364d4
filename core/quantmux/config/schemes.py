"""Schemes: what the numbers of one quantized linear mean, weights and activations together."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import model_validator

from quantmux.config._base import Frozen, closest
from quantmux.config.operands import Operand, operand
from quantmux.errors import ConfigError

Accumulation = Literal["fast", "exact"]


class Scheme(Frozen):
    """Weight operand, activation operand (None = left in 16 bit), and accumulation.

    ``accumulation="fast"`` allows the tensor core's short accumulator (about 14 mantissa bits on
    Hopper for FP8); ``"exact"`` asks for promotion to fp32. A weight operand's ``dynamic``
    and ``global_scale`` say nothing about run time: weights are quantized once.
    """

    weight: Operand
    activation: Operand | None = None
    accumulation: Accumulation = "fast"

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            weight: Operand | str,
            activation: Operand | str | None = None,
            accumulation: Accumulation = "fast",
        ) -> None: ...

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, value: Any) -> Any:
        return dict(scheme(value)) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Scheme:
        # weights carry their scales; one spelling of that, so that equal schemes compare equal
        object.__setattr__(self, "weight", as_weight(self.weight))
        if self.activation is not None:
            w_is_int, a_is_int = self.weight.element == "int8", self.activation.element == "int8"
            if w_is_int != a_is_int:
                raise ConfigError(
                    f"weight {self.weight.element} cannot be multiplied by "
                    f"activation {self.activation.element}"
                )
        return self

    @property
    def name(self) -> str:
        """Give the preset name, or a description; ``+exact`` marks exact accumulation."""
        return _name(self)

    @property
    def needs_static_activation_scale(self) -> bool:
        """Tell whether running it needs a scale found by calibration."""
        a = self.activation
        return a is not None and (not a.dynamic or a.global_scale == "static")

    def __str__(self) -> str:
        return self.name


@lru_cache(maxsize=1024)
def _name(value: Scheme) -> str:
    plain = value if value.accumulation == "fast" else value.replace(accumulation="fast")
    suffix = "" if value.accumulation == "fast" else "+exact"
    for preset, known in SCHEMES.items():
        if known == plain:
            return preset + suffix
    activation = value.activation.name if value.activation else "16bit"
    return f"{value.weight.family}*{activation}{suffix}"


def as_weight(value: Operand | str) -> Operand:
    """Give the operand in the form weights carry it: scales stored beside the tensor."""
    found = operand(value) if isinstance(value, str) else value
    global_scale = "none" if found.global_scale == "none" else "static"
    if not found.dynamic and found.global_scale == global_scale:
        return found
    return found.replace(dynamic=False, global_scale=global_scale)


def _presets() -> dict[str, Scheme]:
    def of(weight: str, activation: str | None) -> Scheme:
        return Scheme(
            weight=operand(weight), activation=operand(activation) if activation else None
        )

    return {
        "fp8_tensor": of("fp8_tensor", "fp8_tensor"),
        "fp8_tensor_static": of("fp8_tensor", "fp8_tensor_static"),
        "fp8_tensor_token": of("fp8_tensor", "fp8_token"),
        "fp8_channel_token": of("fp8_channel", "fp8_token"),
        "fp8_block128": of("fp8_block128", "fp8_group128"),
        "fp8_block128_pow2": of("fp8_block128_pow2", "fp8_group128_pow2"),
        "fp8_w8a16": of("fp8_channel", None),
        "nvfp4": of("nvfp4", "nvfp4_static"),
        "nvfp4_dynamic": of("nvfp4", "nvfp4"),
        "nvfp4_w4a16": of("nvfp4", None),
        "int8_channel_token": of("int8_channel", "int8_token"),
    }


SCHEMES: Final[dict[str, Scheme]] = {}
SCHEMES.update(_presets())


def scheme(name: str) -> Scheme:
    """Give the preset scheme of that name; ``+exact`` appended asks for exact accumulation.

    Raises:
        ConfigError: The name is not a preset; names the closest one.
    """
    base, plus, mode = name.partition("+")
    found = SCHEMES.get(base)
    if found is None or (plus and mode not in ("exact", "fast")):
        near = closest(base, SCHEMES)
        raise ConfigError(
            f'scheme "{name}" is not a preset',
            facts=["presets: " + " ".join(SCHEMES) + "   (+exact for exact accumulation)"],
            hint=f'did you mean "{near}"?' if near else "pass a Scheme(...) instead",
        )
    return found if mode != "exact" else found.replace(accumulation="exact")
