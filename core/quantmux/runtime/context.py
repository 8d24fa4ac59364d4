"""Context: the registry, the quarantine and the cached selections of one process."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import lru_cache
from threading import RLock
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from quantmux.config.policy import Policy
from quantmux.config.policy_context import current_context
from quantmux.config.settings import resolve
from quantmux.dispatch.gather import gather
from quantmux.dispatch.select import no_kernel, survey
from quantmux.dispatch.select import select as dispatch_select
from quantmux.errors import ConfigError, ForcedKernelError
from quantmux.registry.default import default_registry
from quantmux.registry.digest import kernel_digest
from quantmux.registry.user_folder import user_folder
from quantmux.runtime.events import FallbackEvent, Stage, report
from quantmux.runtime.quarantine_expiry import expires_in
from quantmux.runtime.quarantine_file import default_quarantine
from quantmux.runtime.quarantine_ground import Ground, ground_here

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from quantmux.capability.device import DeviceProfile
    from quantmux.capability.rejection import Rejection
    from quantmux.config import LayerConfig
    from quantmux.config.policy import OnFallback
    from quantmux.config.settings import Settings
    from quantmux.dispatch.inventory import Inventory
    from quantmux.dispatch.selection import Selection
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.registry.manager import Registry
    from quantmux.runtime.quarantine import Quarantine

_CACHED: int = 65536
"""Selections that are kept; beyond it all are forgotten and made again."""

_count = itertools.count(1)
_contexts: WeakValueDictionary[str, Context] = WeakValueDictionary()


class Context:
    """Who is here and what is known of them; selections are cached. Safe between threads.

    Args:
        registry: Plugins and kernels.
        quarantine: Kernels not to be tried; None takes that of the process.
        installed_only: Ask this machine for packages and tools even for a device not here.

    Attributes:
        token: Names the context within this process.
        programs: What graphs name of it (`runtime.traced.keys`), held as long as it is.
    """

    def __init__(
        self,
        registry: Registry,
        quarantine: Quarantine | None = None,
        *,
        installed_only: bool = False,
    ) -> None:
        self.registry = registry
        self.quarantine = default_quarantine() if quarantine is None else quarantine
        self.installed_only = installed_only
        self._lock = RLock()
        self.quarantine.look()
        self._version = self.quarantine.version
        self._selections: dict[tuple[Any, ...], Selection] = {}
        self._inventories: dict[tuple[DeviceProfile, int], Inventory] = {}
        self._kept: dict[tuple[Any, ...], Any] = {}
        self.token = f"context {next(_count)}"
        self.programs: dict[str, Any] = {}
        _contexts[self.token] = self
        self._report_failed_plugins()

    def select(
        self,
        config: LayerConfig,
        device: DeviceProfile,
        *,
        m: int | None = None,
        layer: str | None = None,
        call_overrides: Policy | Mapping[str, Any] | None = None,
    ) -> Selection:
        """Give the kernels for a config on a device; the same answer is the same object.

        Args:
            config: What is wanted.
            device: Where.
            m: One number of rows; None covers all.
            layer: Name of the layer, for the rules of the policy.
            call_overrides: Policy of this call, over everything else.

        Raises:
            ForcedKernelError: What the policy forces cannot serve. Only a rule that itself says
                ``fallback = {select = "warn"}`` (or ``"silent"``) beside its ``force`` makes the
                force a wish; then the event is reported and the rest of the policy decides.
            NoKernelError: Nothing can serve.
        """
        key = self._key(config, device, m, layer, call_overrides, "select")
        found = self._selections.get(key)
        if found is None:
            found = self._select(config, device, m, layer, call_overrides)
            self._keep(key, found)
        return found

    def survey(
        self,
        config: LayerConfig,
        device: DeviceProfile,
        *,
        m: int | None = None,
        layer: str | None = None,
        call_overrides: Policy | Mapping[str, Any] | None = None,
    ) -> Selection:
        """Give the selection even where nothing can serve; see `select`."""
        key = self._key(config, device, m, layer, call_overrides, "survey")
        found = self._selections.get(key)
        if found is None:
            settings = self.settings(config, device, layer, call_overrides)
            found = survey(config, device, settings, self.inventory(device), m)
            self._keep(key, found)
        return found

    def reselect(
        self,
        selection: Selection,
        m: int | None = None,
        without: Collection[str] = (),
        blocked: Mapping[str, Rejection] | None = None,
    ) -> Selection:
        """Give a selection under the same settings as they stand, without some kernels.

        ``ranges`` is empty when nothing else can serve.

        Args:
            selection: What was selected before; the quarantine may have grown since.
            m: One number of rows, None covers all.
            without: Kernel ids that shall not be taken.
            blocked: Kernel ids that cannot be taken now, and why.
        """
        settings = selection.settings
        if without:
            settings = replace(settings, deny=(*settings.deny, *sorted(without)))
        away = tuple(sorted((blocked or {}).items()))
        key = (selection.config, selection.device, m, settings, away, self._today(), "reselect")
        found = self._selections.get(key)
        if found is None:
            inventory = self.inventory(selection.device)
            if away:
                more = {name: (*inventory.blocked.get(name, ()), why) for name, why in away}
                inventory = replace(inventory, blocked={**inventory.blocked, **more})
            found = survey(selection.config, selection.device, settings, inventory, m)
            self._keep(key, found)
        return found

    def settings(
        self,
        config: LayerConfig,
        device: DeviceProfile,
        layer: str | None = None,
        call_overrides: Policy | Mapping[str, Any] | None = None,
    ) -> Settings:
        """Give the policy that holds for a config on a device, with the origin of each value."""
        return resolve(
            config,
            _names(device),
            layer,
            call=call_overrides,
            context=current_context(),
            file=self.registry.policy,
        )

    def inventory(self, device: DeviceProfile) -> Inventory:
        """Give the kernels and what is known of them on a device; gathered once."""
        key = (device, self._today())
        found = self._inventories.get(key)
        if found is None:
            quarantined = self.quarantine.rejections(
                device.name, lambda kernel: self.ground(kernel, device)
            )
            found = gather(
                self.registry,
                device,
                installed_only=self.installed_only,
                quarantined=quarantined,
                user_folder=user_folder(),
            )
            with self._lock:
                found = self._inventories.setdefault(key, found)
        return found

    def load(self, spec: KernelSpec) -> Any:
        """Import a kernel, once; raises what `Registry.load_kernel` raises."""
        return self.registry.load_kernel(spec.id)

    def digest(self, kernel_id: str) -> str:
        """Give the digest of a kernel, "" for one that is not registered."""
        for spec in self.registry.kernels:
            if spec.id == kernel_id:
                return kernel_digest(spec, self.registry.folder(spec.backend))
        return ""

    def ground(self, kernel_id: str, device: DeviceProfile) -> Ground | None:
        """Give what a verdict on a kernel stands on today, None for one that is not registered."""
        for spec in self.registry.kernels:
            if spec.id == kernel_id:
                return ground_here(spec, self.registry, device)
        return None

    def put_away(
        self,
        kernel_id: str,
        device: DeviceProfile,
        reason: str,
        error: BaseException | None = None,
    ) -> None:
        """Quarantine a kernel on a device, as it is today.

        Args:
            kernel_id: The kernel.
            device: Where it failed.
            reason: What went wrong, one line.
            error: The exception; what looks as if it passes by itself is tried again sooner.
        """
        self.quarantine.add(
            kernel_id,
            device.name,
            reason,
            ground=self.ground(kernel_id, device),
            expires_in=expires_in(error),
        )

    def report(
        self, event: FallbackEvent, mode: OnFallback, cause: BaseException | None = None
    ) -> None:
        """Report an event to this context's plugins too; see `events.report`."""
        report(event, mode, self.registry, cause)

    def remember(self, key: tuple[Any, ...], make: Any) -> Any:
        """Give what is kept under a key, made at the first call; forgotten with the selections."""
        key = (*key, self._today())
        found = self._kept.get(key)
        if found is None:
            made = make()
            with self._lock:
                found = self._kept.setdefault(key, made)
        return found

    def forget(self, key: tuple[Any, ...]) -> None:
        """Forget what is kept under a key of `remember`."""
        self._kept.pop((*key, self._today()), None)

    def _select(
        self,
        config: LayerConfig,
        device: DeviceProfile,
        m: int | None,
        layer: str | None,
        call: Policy | Mapping[str, Any] | None,
    ) -> Selection:
        settings = self.settings(config, device, layer, call)
        inventory = self.inventory(device)
        try:
            return dispatch_select(config, device, settings, inventory, m)
        except ForcedKernelError as error:
            mode = settings.on_fallback("select")
            if mode == "error" or not _is_a_wish(settings):
                raise
            free = replace(settings, force=None)
            found = survey(config, device, free, inventory, m)
            if not found.is_served:
                raise no_kernel(found, inventory, m) from error
            event = FallbackEvent(
                wanted=str(settings.force),
                taken=str(found.ranges[0].pipeline),
                stage="select",
                reason="; ".join(str(error).splitlines()[1:2]).strip() or error.headline,
                device=device.name,
                config=config.digest(),
                layer=layer,
            )
            self.report(event, mode, error)
            return found

    def _key(
        self,
        config: LayerConfig,
        device: DeviceProfile,
        m: int | None,
        layer: str | None,
        call: Policy | Mapping[str, Any] | None,
        kind: str,
    ) -> tuple[Any, ...]:
        if call is not None and not isinstance(call, Policy):
            call = Policy(**call)
        return config, device, m, layer, call, current_context(), self._today(), kind

    def _keep(self, key: tuple[Any, ...], selection: Selection) -> None:
        with self._lock:
            if len(self._selections) >= _CACHED:
                self._selections.clear()
            self._selections[key] = selection

    def _today(self) -> int:
        """Give the quarantine's version, a part of every key; what is older is forgotten."""
        version = self.quarantine.version
        if version != self._version:
            with self._lock:
                self._selections.clear()
                self._inventories.clear()
                self._kept.clear()
                self._version = version
        return version

    def _report_failed_plugins(self) -> None:
        # the registry logged them when it met them; here they are counted and told to plugins
        for record in self.registry.plugins:
            if record.state == "failed":
                reason = "; ".join(record.reasons) or "it could not be loaded"
                stage: Stage = "load"
                event = FallbackEvent(record.name, None, stage, reason, device="")
                self.report(event, "silent")


@lru_cache(maxsize=256)
def _names(device: DeviceProfile) -> tuple[str, ...]:
    return tuple(dict.fromkeys((device.name, str(device.arch))))


def _is_a_wish(settings: Settings) -> bool:
    """Tell whether ``force`` comes from a rule that says itself what happens when it cannot."""
    force, action = settings.origin("force"), settings.origin("fallback.select")
    rule = force.rpartition("([[rule]]")[2]
    return bool(rule) and rule != force and action.rpartition("([[rule]]")[2] == rule


def context_of(token: str) -> Context:
    """Give a context by its token: graphs name contexts, they cannot hold them.

    Raises:
        ConfigError: It is gone.
    """
    found = _contexts.get(token)
    if found is None:
        raise ConfigError(f"there is no {token} in this process any more")
    return found


def registries() -> list[Registry]:
    """Give the registries of all contexts of this process, each once."""
    return list({id(c.registry): c.registry for c in list(_contexts.values())}.values())


_lock = RLock()
_current: Context | None = None


def default_context() -> Context:
    """Give the context of this process: the default registry with the process's quarantine."""
    global _current  # noqa: PLW0603 - one per process, behind a lock
    registry = default_registry()
    with _lock:
        if _current is None or _current.registry is not registry:
            _current = Context(registry)
        return _current


__all__ = ["Context", "context_of", "default_context", "registries"]
