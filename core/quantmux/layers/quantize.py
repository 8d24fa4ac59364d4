"""quantize_: swap the nn.Linear of a model for quantized ones, all or none."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from torch import nn

from quantmux.config import Scheme
from quantmux.config._base import closest
from quantmux.config.patterns import check_pattern, matches
from quantmux.errors import ConfigError, QuantmuxError
from quantmux.layers.eligible import unfit
from quantmux.layers.linear import Linear
from quantmux.layers.report import QuantizeReport, Skipped, Swapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from quantmux.config.policy import Policy
    from quantmux.layers.calibrate import Calibration
    from quantmux.runtime.context import Context

Schemes = Scheme | str | Mapping[str, Scheme | str]

_log: Final = logging.getLogger("quantmux.layers")


@dataclass(slots=True)
class _Site:
    """One nn.Linear and every place of the model that it stands in."""

    module: nn.Linear
    scheme: Scheme
    names: list[str] = field(default_factory=list)
    places: list[tuple[nn.Module, str]] = field(default_factory=list)


def quantize_(
    model: nn.Module,
    scheme: Schemes,
    *,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    calibration: Calibration | None = None,
    policy: Policy | Mapping[str, Any] | None = None,
    context: Context | None = None,
    progress: Callable[[str], None] | None = None,
) -> QuantizeReport:
    """Swap the nn.Linear modules of a model, in place; if one cannot be, none is.

    A linear under several names stays one module. Skipped, with the reason in the report, are
    subclasses of nn.Linear, linears whose parent reads their weights itself
    (nn.MultiheadAttention, nn.TransformerEncoderLayer), those with hooks or a forward of their own,
    and those whose weight is computed from others (weight_norm, spectral_norm, prune,
    parametrize).

    Args:
        model: Changed in place.
        scheme: For all, or patterns → schemes, the first that fits taken.
        include: Patterns of module names (globs, or ``re:``); all when None.
        exclude: Patterns of names that are left as they are. None leaves nothing out, heads and
            routers neither (`checkpoint.convert` leaves those alone by default).
        calibration: Static activation scales; schemes that need them are refused without.
        policy: Policy of the layers, over everything else.
        context: Registry and quarantine; None takes the process's.
        progress: Called with each name before it is quantized.

    Raises:
        ConfigError: A pattern fits nothing, a scheme needs a calibration, or a layer cannot be
            quantized; names them all. The model is as it was.
    """
    wanted, excluded = _patterns(include), _patterns(exclude)
    schemes = _schemes(scheme)
    sites, skipped, seen = _sites(model, wanted, excluded, schemes)
    if wanted is not None:
        _all_fit(wanted, seen, "include")
    if isinstance(scheme, Mapping):
        _all_fit(tuple(schemes), seen, "scheme")
    _needs_calibration(sites, calibration)
    made: list[tuple[_Site, Linear]] = []
    failures: list[tuple[str, QuantmuxError]] = []
    for site in sites:
        if progress is not None:
            progress(site.names[0])
        try:
            made.append((site, _quantized(site, calibration, policy, context)))
        except QuantmuxError as error:
            failures.append((site.names[0], error))
    if failures:
        raise _refused(failures, len(sites))
    for site, layer in made:
        for parent, attribute in site.places:
            setattr(parent, attribute, layer)
    unmatched = tuple(p for p in excluded or () if not any(matches(p, name) for name in seen))
    for pattern in unmatched:
        _log.warning("quantize_: exclude %r fits no linear of the model", pattern)
    return QuantizeReport(tuple(_swapped(s, x) for s, x in made), tuple(skipped), unmatched)


def _sites(
    model: nn.Module,
    wanted: tuple[str, ...] | None,
    excluded: tuple[str, ...] | None,
    schemes: dict[str, Scheme],
) -> tuple[list[_Site], list[Skipped], list[str]]:
    """Give the linears to swap, those not, and all names looked at."""
    sites: dict[int, _Site] = {}
    skipped: list[Skipped] = []
    seen: list[str] = []
    if isinstance(model, nn.Linear):
        raise ConfigError(
            "the model is itself an nn.Linear and has no place to be swapped in",
            hint="use quantmux.Linear.from_float(model.weight, scheme, model.bias)",
        )
    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.Linear):
            continue
        path, _, attribute = name.rpartition(".")
        parent = model.get_submodule(path)
        seen.append(name)
        reason = _reason(name, module, parent, wanted, excluded)
        chosen = next((s for p, s in schemes.items() if matches(p, name)), None)
        if reason is None and chosen is None:
            reason = "no pattern of scheme fits"
        if reason is not None or chosen is None:
            skipped.append(Skipped(name, reason or ""))
            continue
        site = sites.setdefault(id(module), _Site(module, chosen))
        if site.scheme != chosen:
            raise ConfigError(
                f"{site.names[0]} and {name} are one module, asked in two schemes",
                facts=[f"{site.names[0]}: {site.scheme}", f"{name}: {chosen}"],
                hint="give both names the same scheme",
            )
        site.names.append(name)
        site.places.append((parent, attribute))
    return list(sites.values()), skipped, seen


def _reason(
    name: str,
    module: nn.Linear,
    parent: nn.Module,
    wanted: tuple[str, ...] | None,
    excluded: tuple[str, ...] | None,
) -> str | None:
    """Say why a linear is not swapped, None when it is."""
    if wanted is not None and not any(matches(p, name) for p in wanted):
        return "no pattern of include fits"
    for pattern in excluded or ():
        if matches(pattern, name):
            return f"excluded by {pattern}"
    return unfit(module, parent)


def _quantized(
    site: _Site,
    calibration: Calibration | None,
    policy: Policy | Mapping[str, Any] | None,
    context: Context | None,
) -> Linear:
    module, name = site.module, site.names[0]
    scales: dict[str, Any] = {}
    if calibration is not None and site.scheme.needs_static_activation_scale:
        known = next((n for n in site.names if n in calibration), name)
        scales = calibration.scales(known, site.scheme)
    layer = Linear.from_float(
        module.weight, site.scheme, module.bias, layer=name, policy=policy, context=context,
        **scales,
    )  # fmt: skip
    return layer.train(module.training)


def _needs_calibration(sites: list[_Site], calibration: Calibration | None) -> None:
    if calibration is not None:
        return
    names = [s.names[0] for s in sites if s.scheme.needs_static_activation_scale]
    if names:
        chosen = sorted({s.scheme.name for s in sites if s.scheme.needs_static_activation_scale})
        raise ConfigError(
            f"scheme {', '.join(chosen)} needs a calibration for {len(names)} layers",
            facts=names[:8],
            hint="pass calibration=quantmux.calibrate(model, batches), or a scheme with dynamic "
            "scales: nvfp4_dynamic, fp8_tensor, fp8_channel_token",
            code="calibration",
        )


def _refused(failures: list[tuple[str, QuantmuxError]], count: int) -> ConfigError:
    first = failures[0][1]
    error = ConfigError(
        f"{len(failures)} of {count} layers cannot be quantized; nothing was swapped",
        facts=[f"{name}: {e.headline}" for name, e in failures[:8]],
        hint=first.hint or "exclude them",
    )
    error.__cause__ = first
    return error


def _swapped(site: _Site, layer: Linear) -> Swapped:
    choice = layer.selection.ranges[0]
    scheme = layer.config.scheme.name
    return Swapped(tuple(site.names), scheme, str(choice.pipeline), str(choice.tier))


def _patterns(given: str | Iterable[str] | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    return tuple(check_pattern(p) for p in ((given,) if isinstance(given, str) else given))


def _schemes(given: Schemes) -> dict[str, Scheme]:
    pairs = given if isinstance(given, Mapping) else {"*": given}
    return {
        check_pattern(pattern): Scheme.model_validate(s) if isinstance(s, str) else s
        for pattern, s in pairs.items()
    }


def _all_fit(patterns: tuple[str, ...], names: list[str], what: str) -> None:
    for pattern in patterns:
        if any(matches(pattern, name) for name in names):
            continue
        near = closest(pattern, names)
        raise ConfigError(
            f"{what} {pattern!r} fits no linear of the model",
            facts=[f"{len(names)} linears, such as {', '.join(names[:4])}"] if names else
            ["the model has no nn.Linear"],
            hint=f'did you mean "{near}"?' if near else None,
        )  # fmt: skip
