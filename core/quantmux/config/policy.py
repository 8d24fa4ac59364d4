"""Policy: what the user allows, prefers and forces. Says nothing about any one kernel.

A policy remembers which of its keys were given, so that one may lie over another: keys that were
given replace the ones below, lists as a whole.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, Literal, Self

from pydantic import (
    Field,
    StrictBool,
    StrictInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from quantmux.config._base import Frozen, closest
from quantmux.config.operands import OPERAND_ALIASES, OPERANDS
from quantmux.config.patterns import check_pattern, is_plain
from quantmux.config.schemes import SCHEMES
from quantmux.errors import ConfigError

OnFallback = Literal["error", "warn", "silent"]
AllowLossy = Literal["forbid", "warn", "allow"]
KeepCanonical = Literal["auto", "cpu", "never"]
RequiredEvidence = Literal["declared", "compiled", "verified", "measured"]
SelfCheck = Literal["first_use", "never"]
Capture = Literal["refuse", "compile"]

STAGES: Final = ("load", "select", "build", "run")
_OPS: Final = (
    "linear",
    "quantize",
    "silu_mul_quantize",
    "inverse_rope_quantize",
    "rmsnorm_quantize",
    "rope_quantize",
    "relayout",
)
DEFAULT_ORDER: Final = ("cutlass", "triton", "torch", "flashinfer")

_BACKEND: Final = re.compile(r"^[a-z][a-z0-9_]*$")
_KERNEL: Final = re.compile(r"^[a-z][a-z0-9_]*/[a-z0-9][a-z0-9_.+-]*$")


class Partial(Frozen):
    """A model of which only some keys may have been given; equality sees which."""

    def __hash__(self) -> int:
        value = self._hash
        if value is None:
            value = hash((type(self).__name__, *self._identity()))
            self._hash = value
        return value

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other):
            return NotImplemented
        return self.model_fields_set == other.model_fields_set and self.__dict__ == other.__dict__

    def _identity(self) -> tuple[object, ...]:
        return (*self.__dict__.values(), frozenset(self.model_fields_set))

    def given(self) -> dict[str, Any]:
        """Give the keys that were set, with their values."""
        return {name: value for name, value in self if name in self.model_fields_set}

    def replace(self, **changes: Any) -> Self:
        """Give a copy with some keys changed; keys never given stay so."""
        return type(self)(**{**self.given(), **changes})

    def overlaid(self, top: Self) -> Self:
        """Give this with every key that ``top`` was given; lists replace, tables go deeper."""
        merged = self.given()
        for name, value in top.given().items():
            below = merged.get(name)
            if isinstance(below, Partial) and isinstance(value, Partial):
                merged[name] = below.overlaid(value)
            elif isinstance(below, dict) and isinstance(value, dict):
                merged[name] = _overlaid_tables(below, value)
            else:
                merged[name] = value
        return type(self)(**merged)


def _overlaid_tables(below: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in top.items():
        under = merged.get(name)
        if isinstance(under, Partial) and isinstance(value, Partial):
            merged[name] = under.overlaid(value)
        elif isinstance(under, dict) and isinstance(value, dict):
            merged[name] = _overlaid_tables(under, value)
        else:
            merged[name] = value
    return merged


class FallbackPolicy(Partial):
    """What a fallback does at each stage: raise, log one warning per distinct event, or nothing.

    Attributes:
        load: A plugin cannot be loaded.
        select: The first choice does not fit.
        build: Compiling a kernel or preparing its weights fails.
        run: A call raises.
    """

    load: OnFallback = "warn"
    select: OnFallback = "warn"
    build: OnFallback = "warn"
    run: OnFallback = "warn"


class PluginSettings(Partial):
    """What plugins.toml says to one plugin.

    Attributes:
        enabled: False keeps it from being imported at all.
        options: Handed to the plugin as they are.
    """

    enabled: StrictBool = True
    options: dict[str, Any] = Field(default_factory=dict)

    def _identity(self) -> tuple[object, ...]:
        options = json.dumps(self.options, sort_keys=True, default=repr)
        return (self.enabled, options, frozenset(self.model_fields_set))


class _Choices(Partial):
    """The settings that both the whole policy and one rule may give."""

    order: tuple[str, ...] = DEFAULT_ORDER
    deny: tuple[str, ...] = ()
    force: str | None = None
    allow_lossy: AllowLossy = "warn"
    keep_canonical: KeepCanonical = "auto"
    weight_copies: StrictInt = Field(default=1, ge=1, le=8)
    require_evidence: RequiredEvidence = "declared"
    self_check: SelfCheck = "first_use"
    capture: Capture = "refuse"
    fallback: FallbackPolicy = FallbackPolicy()

    @field_validator("order", "deny", mode="before")
    @classmethod
    def _not_a_string(cls, value: Any) -> Any:
        # pydantic would refuse it too, but "a list" says more than "a valid tuple"
        if isinstance(value, str):
            raise ConfigError(f'a list is needed, found "{value}"', hint=f'write ["{value}"]')
        return value

    @field_validator("order")
    @classmethod
    def _backends(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not _BACKEND.match(name):
                raise ConfigError(
                    f'order names "{name}", which cannot be a backend',
                    hint="order lists backends; a kernel is chosen with force",
                )
        twice = {name for name in value if value.count(name) > 1}
        if twice:
            raise ConfigError(f'order names "{min(twice)}" twice')
        return value

    @field_validator("deny")
    @classmethod
    def _patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_pattern(pattern) for pattern in value)

    @field_validator("force")
    @classmethod
    def _forced(cls, value: str | None) -> str | None:
        if value is not None and not _BACKEND.match(value) and not _KERNEL.match(value):
            raise ConfigError(
                f'force is "{value}", neither a backend nor a kernel id',
                hint='a backend such as "triton", or a kernel id such as "torch/scaled_mm"',
            )
        return value


CHOICES: Final = tuple(_Choices.model_fields)
"""Names of the settings, in the order in which they are shown."""


class Rule(_Choices):
    """Settings for some layers, schemes, devices or ops; the first rule that matches is taken.

    Attributes:
        layer: Glob or ``re:`` pattern on the layer's name; a rule with it never matches a config
            that was selected without a name.
        scheme: Glob on the scheme's name (a producer's operand name).
        device: Glob on the device's name (``h200``) or its architecture (``sm90``).
        op: Glob on the op's name.
    """

    layer: str | None = None
    scheme: str | None = None
    device: str | None = None
    op: str | None = None

    @field_validator("layer", "scheme", "device", "op")
    @classmethod
    def _pattern(cls, value: str | None) -> str | None:
        return None if value is None else check_pattern(value)

    @field_validator("scheme", "op")
    @classmethod
    def _known_name(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None or not is_plain(value):
            return value
        known = _OPS if info.field_name == "op" else (*SCHEMES, *OPERANDS, *OPERAND_ALIASES)
        if value.partition("+")[0] not in known and value.isidentifier():
            near = closest(value, known)
            raise ConfigError(
                f'{info.field_name} "{value}" matches nothing: there is none of that name',
                facts=["known: " + " ".join(known)],
                hint=f'did you mean "{near}"?' if near else "a glob such as fp8_* matches several",
            )
        return value


MATCHERS: Final = tuple(name for name in Rule.model_fields if name not in CHOICES)
"""Keys of a rule that say where it holds."""


class Policy(_Choices):
    """What is allowed, preferred and forced.

    Attributes:
        order: Backends, the preferred first; decides between kernels of one tier that no
            measurement tells apart. Backends not named come after those named.
        deny: Globs over kernel ids or backend names that are never taken.
        force: A kernel id or a backend that must be taken; an error if it cannot serve.
        allow_lossy: Whether weight-only kernels may stand in for a scheme that quantizes
            activations, which changes numerics; ``warn`` allows it with one warning.
        keep_canonical: Where the checkpoint's weights stay after a lossy preparation: ``auto``
            beside the prepared ones, ``cpu`` in host memory, ``never`` nowhere.
        weight_copies: Prepared forms of one weight that may be held at once.
        require_evidence: The least evidence a kernel must have on the device.
        self_check: Whether a kernel without evidence on the device is compared with the reference
            when it is first bound there: ``first_use`` or ``never``.
        capture: What a kernel does that is not compiled for the call that a CUDA graph records:
            ``refuse`` raises, ``compile`` compiles, with a warning.
        fallback: What a fallback does, per stage.
        plugins: Settings of each plugin; read when plugins are loaded.
        rules: Settings for some layers only; the first that matches wins.
    """

    plugins: dict[str, PluginSettings] = Field(default_factory=dict)
    rules: tuple[Rule, ...] = ()

    @model_validator(mode="after")
    def _plugin_names(self) -> Self:
        for name in self.plugins:
            if not _BACKEND.match(name):
                raise ConfigError(
                    f'"{name}" cannot be a plugin: names match [a-z][a-z0-9_]*',
                )
        return self

    def _identity(self) -> tuple[object, ...]:
        plugins = tuple(sorted(self.plugins.items(), key=lambda item: item[0]))
        values = (v for name, v in self if name != "plugins")
        return (*values, plugins, frozenset(self.model_fields_set))

    def plugin(self, name: str) -> PluginSettings:
        """Give the settings of one plugin, the defaults when nothing is said of it."""
        return self.plugins.get(name, _NO_SETTINGS)


_NO_SETTINGS: Final = PluginSettings()
