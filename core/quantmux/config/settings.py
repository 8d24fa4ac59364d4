"""Settings: the effective values for one op, layer, scheme and device, each with its origin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from quantmux.config.layers import (
    InverseRopeQuantizeConfig,
    LinearConfig,
    QuantizeConfig,
    RelayoutConfig,
    RmsNormQuantizeConfig,
    RopeQuantizeConfig,
    SiluMulQuantizeConfig,
)
from quantmux.config.patterns import matches
from quantmux.config.policy import (
    CHOICES,
    DEFAULT_ORDER,
    MATCHERS,
    STAGES,
    AllowLossy,
    Capture,
    FallbackPolicy,
    KeepCanonical,
    OnFallback,
    Policy,
    RequiredEvidence,
    Rule,
    SelfCheck,
)
from quantmux.config.policy_file import LoadedPolicy, Where
from quantmux.errors import ConfigError

AnyConfig = (
    LinearConfig
    | QuantizeConfig
    | SiluMulQuantizeConfig
    | InverseRopeQuantizeConfig
    | RmsNormQuantizeConfig
    | RopeQuantizeConfig
    | RelayoutConfig
)

DEFAULT_ORIGIN: Final = "default"


@dataclass(frozen=True, slots=True)
class Settings:
    """Effective policy for one place; see `Policy` for what each value means.

    Equality and hash leave ``origins`` out: two settings that decide alike are the same key.
    """

    order: tuple[str, ...] = DEFAULT_ORDER
    deny: tuple[str, ...] = ()
    force: str | None = None
    allow_lossy: AllowLossy = "warn"
    keep_canonical: KeepCanonical = "auto"
    weight_copies: int = 1
    require_evidence: RequiredEvidence = "declared"
    self_check: SelfCheck = "first_use"
    capture: Capture = "refuse"
    fallback: FallbackPolicy = field(default_factory=FallbackPolicy)
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    def order_rank(self, backend: str) -> int:
        """Give the backend's place in ``order``; those not named share the place behind it."""
        return self.order.index(backend) if backend in self.order else len(self.order)

    def denied_by(self, kernel_id: str) -> str | None:
        """Give the first ``deny`` pattern that matches the kernel or its backend, or None."""
        backend = kernel_id.partition("/")[0]
        for pattern in self.deny:
            if matches(pattern, kernel_id) or matches(pattern, backend):
                return pattern
        return None

    def forces(self, kernel_id: str) -> bool:
        """Tell whether ``force`` names this kernel or its backend."""
        return self.force is not None and self.force in (kernel_id, kernel_id.partition("/")[0])

    def on_fallback(self, stage: str) -> OnFallback:
        """Give what a fallback at the stage (load, select, build, run) does."""
        found: OnFallback = getattr(self.fallback, stage)
        return found

    def origin(self, name: str) -> str:
        """Name where a value came from, e.g. ``plugins.toml line 12``."""
        return self.origins.get(name, DEFAULT_ORIGIN)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Give ``{name: {"value", "origin"}}``, JSON-ready; stages appear as ``fallback.build``."""
        out: dict[str, dict[str, Any]] = {}
        for name in CHOICES:
            if name == "fallback":
                for stage in STAGES:
                    key = f"fallback.{stage}"
                    out[key] = {"value": self.on_fallback(stage), "origin": self.origin(key)}
                continue
            value = getattr(self, name)
            shown = list(value) if isinstance(value, tuple) else value
            out[name] = {"value": shown, "origin": self.origin(name)}
        return out


def resolve(
    config: AnyConfig,
    device_name: str | tuple[str, ...],
    layer: str | None = None,
    *,
    call: Policy | Mapping[str, Any] | None = None,
    context: Policy | None = None,
    file: LoadedPolicy | Policy | None = None,
) -> Settings:
    """Give the settings that hold for one config: call over context over file over default.

    Within each of the three, the first rule that matches goes before the plain settings. What a
    higher level does not give is taken from the next one, key by key. Pure: the context is the
    one passed (`current_context()`), not looked up here. Results are cached and shared.

    Args:
        config: Layer config; its op and scheme choose among the rules.
        device_name: Name of the device, or all names it goes by: ``("h200", "sm90")``.
        layer: Name of the layer in its model, None when there is none.
        call: Policy of this call, or its keys.
        context: Policy of the enclosing `use_policy` blocks.
        file: Policy read from plugins.toml.

    Raises:
        ConfigError: ``call`` is not a valid policy, or sets ``plugins``.
    """
    names = (device_name,) if isinstance(device_name, str) else tuple(device_name)
    if call is not None and not isinstance(call, Policy):
        call = Policy(**call)
    if call is not None:
        check_without_plugins(call, "a call")
    return _resolve(config.op, scheme_name(config), names, layer, call, context, file)


def check_without_plugins(policy: Policy, where: str) -> None:
    """Check that a policy says nothing about plugins, which are read once, at load.

    Raises:
        ConfigError: It does.
    """
    if "plugins" in policy.model_fields_set:
        raise ConfigError(
            f"{where} cannot set plugins: they were loaded before",
            hint="use deny=[...], or [plugins.<name>] enabled = false in plugins.toml",
        )


@lru_cache(maxsize=4096)
def scheme_name(config: AnyConfig) -> str:
    """Give the name that ``scheme`` patterns see: a linear's scheme, a producer's operand."""
    return config.scheme.name if isinstance(config, LinearConfig) else config.operand.name


def rule_matches(
    rule: Rule, op: str, scheme: str, device_names: tuple[str, ...], layer: str | None
) -> bool:
    """Tell whether all matchers of the rule fit.

    ``fp8_block128`` fits ``fp8_block128+exact`` too: accumulation is a detail of the same scheme.
    """
    if rule.op is not None and not matches(rule.op, op):
        return False
    if rule.scheme is not None and not any(
        matches(rule.scheme, name) for name in (scheme, scheme.partition("+")[0])
    ):
        return False
    if rule.device is not None and not any(matches(rule.device, name) for name in device_names):
        return False
    return rule.layer is None or (layer is not None and matches(rule.layer, layer))


@lru_cache(maxsize=65536)
def _resolve(
    op: str,
    scheme: str,
    device_names: tuple[str, ...],
    layer: str | None,
    call: Policy | None,
    context: Policy | None,
    file: LoadedPolicy | Policy | None,
) -> Settings:
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    stages: dict[str, Any] = {}
    for given, where in _sources(op, scheme, device_names, layer, (call, context, file)):
        for name, value in given.items():
            if isinstance(value, FallbackPolicy):
                for stage, action in value.given().items():
                    if stage not in stages:
                        stages[stage] = action
                        origins[f"fallback.{stage}"] = where(f"fallback.{stage}")
            elif name in CHOICES and name not in values:
                values[name] = value
                origins[name] = where(name)
    return Settings(**values, fallback=FallbackPolicy(**stages), origins=origins)


class _Origin:
    """Names the origin of a key of one level, or of one rule of it."""

    def __init__(self, level: str, lines: Mapping[str, Where], rule: int | None = None) -> None:
        self._level, self._lines, self._rule = level, lines, rule

    def __call__(self, name: str) -> str:
        if self._rule is None:
            return str(self._lines.get(f"policy.{name}", self._level))
        number = f"([[rule]] {self._rule + 1})"
        line = self._lines.get(f"rule.{self._rule}.{name}")
        return f"{line or self._level} {number}"


def _sources(
    op: str,
    scheme: str,
    device_names: tuple[str, ...],
    layer: str | None,
    levels: tuple[Policy | None, Policy | None, LoadedPolicy | Policy | None],
) -> Iterator[tuple[dict[str, Any], _Origin]]:
    for level, source in zip(("call", "context", "policy"), levels, strict=True):
        if source is None:
            continue
        policy, lines = _policy_and_lines(source)
        for index, rule in enumerate(policy.rules):
            if rule_matches(rule, op, scheme, device_names, layer):
                given = {k: v for k, v in rule.given().items() if k not in MATCHERS}
                yield given, _Origin(level, lines, index)
                break
        yield policy.given(), _Origin(level, lines)


def _policy_and_lines(source: LoadedPolicy | Policy) -> tuple[Policy, Mapping[str, Where]]:
    if isinstance(source, LoadedPolicy):
        return source.policy, source.lines
    return source, {}
