"""The functions of the front door: ask for kernels, without torch and without a GPU."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantmux.capability.detect import detect_devices, resolve_device
from quantmux.config._base import closest
from quantmux.config.layers import (
    InverseRopeQuantizeConfig,
    LinearConfig,
    QuantizeConfig,
    RelayoutConfig,
    RmsNormQuantizeConfig,
    RopeQuantizeConfig,
    SiluMulQuantizeConfig,
)
from quantmux.config.patterns import is_plain
from quantmux.config.policy_context import current_context
from quantmux.dispatch.plan import Plan
from quantmux.dispatch.plan import plan as plan_layers
from quantmux.errors import ConfigError
from quantmux.registry.default import default_registry
from quantmux.runtime.context import Context, default_context

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig
    from quantmux.dispatch.selection import Selection
    from quantmux.registry.status import PluginRecord

_CONFIGS = (
    LinearConfig,
    QuantizeConfig,
    SiluMulQuantizeConfig,
    InverseRopeQuantizeConfig,
    RmsNormQuantizeConfig,
    RopeQuantizeConfig,
    RelayoutConfig,
)
_contexts: dict[Any, Context] = {}
_hot: dict[tuple[Any, ...], Selection] = {}


def device(name: Any = None) -> DeviceProfile:
    """Give the profile that a device name means, plugins' profiles included.

    Args:
        name: None (the first GPU here, else the CPU), ``"cuda:1"``, ``"b200"``, ``"sm90"``, a
            torch.device, or a DeviceProfile.

    Raises:
        ConfigError: There is no such device.
    """
    return resolve_device(name, profiles=default_registry().profiles())


def devices() -> tuple[DeviceProfile, ...]:
    """Give the GPUs of this machine; empty without any. Needs no torch."""
    return detect_devices()


def plugins(on: Any = None) -> tuple[PluginRecord, ...]:
    """Give every plugin found with its status on a device, failed and disabled ones included."""
    return default_registry().plugins_on(device(on))


def select(
    config: LayerConfig,
    device: Any = None,
    *,
    m: int | None = None,
    layer: str | None = None,
    installed_only: bool = False,
    **policy: Any,
) -> Selection:
    """Give the kernels for a layer config on a device, and why the others were not taken.

    The same question gives the same object; asking again costs a dictionary look-up.

    Args:
        config: What is wanted.
        device: Where: a name, a torch.device, a profile; None is the GPU here, else the CPU.
        m: One number of rows; None covers every M by ranges.
        layer: Name of the layer, for rules of the policy.
        installed_only: Ask this machine for packages even if the device is not here.
        **policy: Keys of `Policy` for this call: ``order``, ``deny``, ``force``, …

    Raises:
        NoKernelError: Nothing can serve; carries every kernel's rejections.
        ForcedKernelError: What was forced cannot serve.
        ConfigError: The device or a policy key does not exist.
    """
    _check_question(config, m)
    context = _context(installed_only)
    if policy:
        where = _resolved(device)
        _check_names(context, policy)
        return context.select(config, where, m=m, layer=layer, call_overrides=policy)
    version = context.quarantine.version
    key: tuple[Any, ...] | None = (config, device, m, layer, current_context(), context, version)
    try:
        found = _hot.get(key)  # type: ignore[arg-type]
    except TypeError:  # an unhashable device is refused by name below
        key, found = None, None
    if found is None:
        _check_names(context, {})
        found = context.select(config, _resolved(device), m=m, layer=layer)
        if key is not None:
            if len(_hot) > 65536:
                _hot.clear()
            _hot[key] = found
    return found


def explain(
    config: LayerConfig,
    device: Any = None,
    *,
    m: int | None = None,
    layer: str | None = None,
    installed_only: bool = False,
    **policy: Any,
) -> Selection:
    """Give the selection even where nothing can serve; ``.explain()`` tells it in plain text."""
    _check_question(config, m)
    context = _context(installed_only)
    where = _resolved(device)
    _check_names(context, policy)
    return context.survey(config, where, m=m, layer=layer, call_overrides=policy or None)


def plan(
    source: str | PathLike[str] | Iterable[tuple[str, LayerConfig]],
    device: Any = None,
    *,
    installed_only: bool = False,
    **policy: Any,
) -> Plan:
    """Select for every layer of a model.

    Args:
        source: A checkpoint's folder or file, of which only headers are read, or pairs of layer
            name and config.
        device: As in `select`.
        installed_only: As in `select`.
        **policy: As in `select`.

    Raises:
        CheckpointError: The checkpoint is broken or of an unknown format.
    """
    context, where = _context(installed_only), _resolved(device)
    _check_names(context, policy)
    notes: list[str] = []
    if isinstance(source, str | PathLike):
        from quantmux.checkpoint import open_checkpoint

        checkpoint = open_checkpoint(Path(source))
        entries = checkpoint.layers()
        layers: Iterable[tuple[str, LayerConfig]] = ((e.name, e.config) for e in entries)
        notes = sorted({f"{e.name}: {note}" for e in entries for note in e.notes})
    else:
        layers = source
    # thousands of experts share a config: the layer's name matters only where a rule asks for it
    by_name = _names_matter(context, policy)
    known: dict[tuple[Any, ...], Selection] = {}

    def choose(name: str, config: LayerConfig) -> Selection:
        key: tuple[Any, ...] = (config,)
        if by_name:
            key = (config, context.settings(config, where, name, policy or None))
        found = known.get(key)
        if found is None:
            layer = name if by_name else None
            found = context.survey(config, where, layer=layer, call_overrides=policy or None)
            known[key] = found
        return found

    return plan_layers(layers, where, choose, notes)


def _check_question(config: LayerConfig, m: int | None) -> None:
    if type(config) not in _CONFIGS:
        raise ConfigError(
            f"a layer config is asked for, found {type(config).__name__}",
            facts=["configs: " + " ".join(kind.__name__ for kind in _CONFIGS)],
            hint="quantmux.parse_layer_config builds one from a dict or JSON",
        )
    if m is not None and (type(m) is not int or m < 0):
        raise ConfigError(f"m is a number of rows, at least 0, found {m!r}")


def _check_names(context: Context, call: dict[str, Any]) -> None:
    """Refuse names in ``order`` and ``deny`` that are nearly those of something here.

    A name that resembles nothing is taken as it is: a host may list backends that a machine lacks.
    """
    inner = current_context()
    given = {**(inner.given() if inner is not None else {}), **call}
    asked = [*given.get("order", ()), *(p for p in given.get("deny", ()) if is_plain(p))]
    if not asked:
        return
    registry = context.registry
    known = [*(p.name for p in registry.plugins), *(k.id for k in registry.kernels)]
    for name in asked:
        near = closest(name, known, cutoff=0.75) if name not in known else None
        if near:
            raise ConfigError(
                f'the policy names "{name}", which is neither a backend nor a kernel here',
                facts=["backends: " + " ".join(p.name for p in registry.plugins)],
                hint=f'did you mean "{near}"?',
                code="unknown_name",
            )


def _names_matter(context: Context, call: dict[str, Any]) -> bool:
    policies = [context.registry.policy.policy, current_context()]
    rules = [rule for p in policies if p is not None for rule in p.rules]
    return bool(call.get("rules")) or any(rule.layer is not None for rule in rules)


def _context(installed_only: bool) -> Context:
    context = default_context()
    if not installed_only:
        return context
    found = _contexts.get(context)
    if found is None:
        _contexts.clear()
        found = Context(context.registry, context.quarantine, installed_only=True)
        _contexts[context] = found
    return found


def _resolved(name: Any) -> DeviceProfile:
    return device(name)
