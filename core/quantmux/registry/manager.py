"""Registry: the plugins that are here and the kernels they offer."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Any, Final

from quantmux.capability.device import DeviceProfile
from quantmux.capability.profiles import PROFILES
from quantmux.config._base import closest
from quantmux.config.policy import DEFAULT_ORDER, Policy
from quantmux.config.policy_file import LoadedPolicy, default_policy
from quantmux.errors import ConfigError, PluginError
from quantmux.registry.discovery import Found, given_plugins, imports_torch, installed_plugins
from quantmux.registry.guard import describe, guarded
from quantmux.registry.kernel_spec import BackendStatus, KernelSpec
from quantmux.registry.library_unit import LibraryUnit, library_problem
from quantmux.registry.load import load_kernel
from quantmux.registry.status import PluginRecord, probe_failure, status_problem
from quantmux.registry.validate import check_plugin, new_plugin_manager

_log: Final = logging.getLogger("quantmux.plugins")

Plugins = Mapping[str, Any] | Iterable[tuple[str, Any]]


class Registry:
    """Plugins and kernels; immutable once built, safe to share between threads.

    Attributes:
        policy: The policy file that it was built with.
        plugins: A record of every plugin found, failed and disabled ones included.
        kernels: All kernels of the usable plugins, by id.
    """

    def __init__(self, found: Iterable[Found], policy: LoadedPolicy) -> None:
        self.policy = policy
        self._manager = new_plugin_manager()
        self._kernels: dict[str, KernelSpec] = {}
        self._records: list[PluginRecord] = []
        self._providers: dict[str, Found] = {}
        self._lock = RLock()
        self._loaded: dict[str, Any] = {}
        self._probes: dict[DeviceProfile, dict[str, BackendStatus]] = {}
        self._deaf: set[tuple[str, str]] = set()
        for item in found:
            self._records.append(self._admit(item))
        self._declare_missing()
        self.plugins: tuple[PluginRecord, ...] = tuple(self._records)
        self.kernels: tuple[KernelSpec, ...] = tuple(
            self._kernels[kernel_id] for kernel_id in sorted(self._kernels)
        )

    @classmethod
    def of(cls, plugins: Plugins, policy: LoadedPolicy | Policy | None = None) -> Registry:
        """Build a registry from plugin objects alone, without looking at what is installed.

        Args:
            plugins: Name → module or object with hook implementations.
            policy: Policy; None is the shipped default.
        """
        return cls(given_plugins(plugins), _as_loaded(policy))

    def kernels_for(self, op: str) -> tuple[KernelSpec, ...]:
        """Give the kernels of an op, by id."""
        return self._by_op.get(op, ())

    def get(self, kernel_id: str) -> KernelSpec:
        """Give one kernel.

        Raises:
            ConfigError: No plugin registered it (code ``kernel``).
        """
        kernel = self._kernels.get(kernel_id)
        if kernel is None:
            near = closest(kernel_id, self._kernels)
            raise ConfigError(
                f'there is no kernel "{kernel_id}"',
                facts=[f"registered: {len(self._kernels)} kernels of {self._usable_text()}"],
                hint=f'did you mean "{near}"?' if near else "run: quantmux plugins",
                code="kernel",
            )
        return kernel

    def record(self, name: str) -> PluginRecord | None:
        """Give the record of the plugin of that name, None when there is none."""
        return next((r for r in self.plugins if r.name == name), None)

    def folder(self, name: str) -> Path | None:
        """Give the folder of the plugin's package: its sources, evidence/ and tuning/.

        None for a plugin that is not usable, or is not in a file.
        """
        plugin = self._manager.get_plugin(name)
        module = plugin if isinstance(plugin, ModuleType) else None
        if plugin is not None and module is None:
            module = sys.modules.get(getattr(plugin, "__module__", type(plugin).__module__))
        file = getattr(module, "__file__", None)
        return Path(file).parent if file else None

    def probe(self, device: DeviceProfile) -> dict[str, BackendStatus]:
        """Ask every usable plugin whether it can work on the device; asked once per device.

        A plugin that raises or returns rubbish gets the state ``failed``, the others are not hurt;
        one without the hook is ``ok``.
        """
        with self._lock:
            if device not in self._probes:
                self._probes[device] = {
                    name: self._probe_one(name, device) for name in self._usable()
                }
            return dict(self._probes[device])

    def plugins_on(self, device: DeviceProfile) -> tuple[PluginRecord, ...]:
        """Give the records with what the probes say of the device."""
        statuses = self.probe(device)
        return tuple(
            _with_status(record, statuses.get(record.name)) if record.is_usable else record
            for record in self.plugins
        )

    def profiles(self) -> dict[str, DeviceProfile]:
        """Give all named device profiles: core's, and plugins' under names that core lacks."""
        return dict(self._profiles)

    def libraries(self, name: str) -> tuple[LibraryUnit, ...]:
        """Give the libraries that a plugin compiles, as they stand now; () for one without any.

        Raises:
            PluginError: Its hook raised, or gave something else.
        """
        if name not in self._providers:
            return ()
        outcome = guarded(
            lambda: [u for given in self._ask(name, "quantmux_libraries") for u in given]
        )
        problem = (
            None
            if outcome.error is None
            else f"raised in quantmux_libraries: {describe(outcome.error)}"
        )
        units: list[Any] = outcome.value or []
        for unit in units:
            problem = problem or library_problem(unit, name)
        if problem is not None:
            raise PluginError(
                f"plugin {name} cannot say which libraries it compiles",
                plugin=name,
                distribution=self._providers[name].distribution,
                facts=[problem],
                hint="report it to the plugin's authors",
                code="plugin_data",
            ) from outcome.error
        return tuple(units)

    def emit(self, event: Any) -> None:
        """Tell every plugin of an event. One that raises is logged once and heard no more of."""
        self._tell("quantmux_event", event=event)

    def release(self, device: int, stream: int) -> None:
        """Have every plugin let go of the memory that it keeps for a stream."""
        self._tell("quantmux_release", device=device, stream=stream)

    def _tell(self, hook: str, **arguments: Any) -> None:
        for name in self._usable():
            outcome = guarded(lambda name=name: self._ask(name, hook, **arguments))  # type: ignore[misc]
            if outcome.error is not None and (name, hook) not in self._deaf:
                self._deaf.add((name, hook))
                _log.warning(
                    "plugin %s raised in %s, ignored: %s", name, hook, describe(outcome.error)
                )

    def load_kernel(self, kernel_id: str) -> Any:
        """Import what the kernel's ``load`` names; imported once.

        Raises:
            ConfigError: There is no such kernel.
            BuildError: Importing it raised; the cause is attached (code ``kernel_import``).
            PluginError: It imports, but does not offer its op's methods (code ``kernel_protocol``).
        """
        kernel = self.get(kernel_id)
        with self._lock:
            if kernel_id not in self._loaded:
                provider = self._providers[kernel.backend]
                self._loaded[kernel_id] = load_kernel(kernel, provider.distribution)
            return self._loaded[kernel_id]

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of all kernels' data and the plugins' versions, equal in every process."""
        content = {
            "plugins": [(r.name, r.version, r.state) for r in self.plugins],
            "kernels": [
                (k.id, k.op, k.capability.model_dump(mode="json"), k.load, k.sources, k.version)
                for k in self.kernels
            ],
        }
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def _by_op(self) -> dict[str, tuple[KernelSpec, ...]]:
        ops = {kernel.op for kernel in self.kernels}
        return {op: tuple(k for k in self.kernels if k.op == op) for op in ops}

    @cached_property
    def _profiles(self) -> dict[str, DeviceProfile]:
        found = dict(PROFILES)
        for name in self._usable():
            outcome = guarded(lambda name=name: self._profiles_of(name))  # type: ignore[misc]
            if outcome.error is not None:
                _log.warning(
                    "plugin %s gave no usable device profiles: %s", name, describe(outcome.error)
                )
                continue
            for profile in outcome.value or ():
                found.setdefault(profile.name, profile)
        return found

    def _profiles_of(self, name: str) -> list[DeviceProfile]:
        answer = self._ask(name, "quantmux_profiles")
        given = [profile for result in answer for profile in result]
        for profile in given:
            if not isinstance(profile, DeviceProfile):
                raise TypeError(f"{type(profile).__name__} is not a DeviceProfile")
        return given

    def _admit(self, item: Found) -> PluginRecord:
        blank = PluginRecord(
            name=item.name, state="ok", distribution=item.distribution, version=item.version
        )
        settings = self.policy.policy.plugin(item.name)
        if not settings.enabled:
            where = self.policy.where(f"plugins.{item.name}.enabled")
            reason = f"enabled = false in {where or 'the policy'}"
            return _changed(blank, state="disabled", reasons=(reason,))
        outcome = guarded(lambda: self._join(item, blank))
        if outcome.value is not None:
            return outcome.value
        return self._failed(blank, item, outcome.error or RuntimeError("no outcome"))

    def _join(self, item: Found, blank: PluginRecord) -> PluginRecord:
        other = self._providers.get(item.name)
        if other is not None:
            raise PluginError(
                f"plugin {item.name} is claimed by two packages",
                plugin=item.name,
                distribution=item.distribution,
                facts={"taken": other.provider, "refused": item.provider},
                hint="uninstall one of them",
                code="conflict",
            )
        plugin, loaded_torch = imports_torch(item.load)
        contract = check_plugin(item.name, plugin, item.distribution)
        self._manager.register(plugin, name=item.name)
        self._providers[item.name] = item
        self._kernels.update({kernel.id: kernel for kernel in contract.kernels})
        note = "importing it imports torch, which slows every program that lists plugins"
        return _changed(
            blank,
            version=contract.info.version,
            api=contract.info.api,
            summary=str(contract.info.summary),
            kernels=len(contract.kernels),
            notes=(note,) if loaded_torch else (),
        )

    def _failed(self, blank: PluginRecord, item: Found, error: BaseException) -> PluginRecord:
        if not isinstance(error, PluginError):
            cause = error
            error = PluginError(
                f"plugin {item.name} cannot be imported",
                plugin=item.name,
                distribution=item.distribution,
                facts=[f"{item.source}: {describe(cause)}"],
                hint="reinstall it, or set enabled = false in "
                f"[plugins.{item.name}] of plugins.toml",
                code="plugin_import",
            )
            error.__cause__ = cause
        action = self.policy.policy.fallback.load
        if action == "error":
            raise error
        if action == "warn":
            _log.warning("%s; going on without it", error)
        return _changed(
            blank,
            state="failed",
            error=error,
            reasons=(error.headline, *error.facts),
            hint=error.hint,
        )

    def _declare_missing(self) -> None:
        known = {record.name for record in self._records}
        for name in sorted(self.policy.policy.plugins):
            if name not in known:
                where = self.policy.where(f"plugins.{name}")
                self._records.append(
                    PluginRecord(
                        name=name,
                        state="unavailable",
                        reasons=(f"not installed, declared in {where or 'the policy'}",),
                    )
                )

    def _usable(self) -> tuple[str, ...]:
        return tuple(self._providers)

    def _usable_text(self) -> str:
        return ", ".join(self._usable()) or "no plugin"

    def _ask(self, name: str, hook: str, **arguments: Any) -> list[Any]:
        others = [p for n, p in self._manager.list_name_plugin() if n != name and p is not None]
        caller = self._manager.subset_hook_caller(hook, remove_plugins=others)
        answer: list[Any] = caller(**arguments)
        return answer

    def _probe_one(self, name: str, device: DeviceProfile) -> BackendStatus:
        outcome = guarded(lambda: self._ask(name, "quantmux_probe", device=device))
        if outcome.error is not None:
            return probe_failure(outcome.error)
        for status in outcome.value or ():
            problem = status_problem(status)
            if problem:
                return BackendStatus(state="failed", reasons=(problem,))
            found: BackendStatus = status
            return found
        return BackendStatus()


def load_registry(
    policy: LoadedPolicy | Policy | None = None,
    *,
    extra: Plugins = (),
    only: Iterable[str] | None = None,
) -> Registry:
    """Build a registry of the installed plugins.

    A plugin that cannot be imported, raises, or breaks the contract is recorded as failed and
    hurts no other; with policy ``fallback.load = "error"`` it is raised instead.

    Args:
        policy: Policy; None reads plugins.toml (`default_policy`).
        extra: More plugins, name → object; installed ones win a name.
        only: Names to load; nothing else is imported.

    Raises:
        ConfigError: The policy names a backend or kernel that does not exist.
        PluginError: A plugin failed and the policy says ``error``.
    """
    loaded = _as_loaded(policy)
    found = (*installed_plugins(), *given_plugins(extra))
    names = {item.name for item in found} | set(DEFAULT_ORDER)
    loaded.check_names(names)
    if only is not None:
        wanted = set(only)
        found = tuple(item for item in found if item.name in wanted)
    registry = Registry(found, loaded)
    loaded.check_names(names, [kernel.id for kernel in registry.kernels])
    return registry


def _as_loaded(policy: LoadedPolicy | Policy | None) -> LoadedPolicy:
    if policy is None:
        return default_policy()
    return LoadedPolicy(policy) if isinstance(policy, Policy) else policy


def _changed(record: PluginRecord, **changes: Any) -> PluginRecord:
    fields = {name: getattr(record, name) for name in PluginRecord.__dataclass_fields__}
    return PluginRecord(**{**fields, **changes})


def _with_status(record: PluginRecord, status: BackendStatus | None) -> PluginRecord:
    if status is None:
        return record
    return _changed(
        record,
        state=status.state,
        reasons=tuple(status.reasons),
        hint=status.hint,
        details=dict(status.details),
    )
