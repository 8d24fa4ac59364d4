"""Whether a plugin keeps the contract: its hooks, its answers, the range of its API."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import pluggy
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from quantmux.config._base import closest
from quantmux.errors import PluginError
from quantmux.registry import hookspecs
from quantmux.registry.guard import describe, guarded
from quantmux.registry.kernel_spec import HOOK_API, BackendInfo, KernelSpec

REQUIRED: Final = ("quantmux_backend", "quantmux_kernels")
HOOKS: Final = tuple(name for name in vars(hookspecs) if name.startswith("quantmux_"))
# A generator that never ends would hang every program that lists kernels.
_MAX_KERNELS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Contract:
    """What a plugin that keeps the contract says."""

    info: BackendInfo
    kernels: tuple[KernelSpec, ...]


def new_plugin_manager() -> pluggy.PluginManager:
    """Give a plugin manager that knows quantmux's hooks."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def check_plugin(name: str, plugin: Any, distribution: str | None) -> Contract:
    """Ask a plugin for everything that does not depend on a device, and check it.

    Args:
        name: Entry-point name; must be the backend's name.
        plugin: Module or object with the hook implementations.
        distribution: Package that brings it, for the errors.

    Raises:
        PluginError: It breaks the contract. ``code`` is ``plugin_hooks`` (wrong or missing
            hooks), ``plugin_raised``, ``plugin_data`` (rubbish returned), ``plugin_api`` (written
            for another version of the contract), ``kernel_spec`` or ``conflict`` (duplicate id).
    """
    return _Check(name, plugin, distribution).run()


class _Check:
    def __init__(self, name: str, plugin: Any, distribution: str | None) -> None:
        self._name, self._plugin, self._distribution = name, plugin, distribution
        # a manager of its own: nothing a broken plugin registers reaches the others
        self._manager = new_plugin_manager()

    def run(self) -> Contract:
        self._register()
        info = self._info()
        self._check_api(info)
        self._check_hooks()
        return Contract(info, self._kernels())

    def _fail(self, headline: str, *facts: str, code: str, hint: str | None = None) -> PluginError:
        return PluginError(
            f"plugin {self._name} {headline}",
            plugin=self._name,
            distribution=self._distribution,
            facts=facts,
            hint=hint,
            code=code,
        )

    def _register(self) -> None:
        outcome = guarded(lambda: self._manager.register(self._plugin, name=self._name))
        if outcome.error is not None:
            lines = str(outcome.error).splitlines()
            raise self._fail(
                "has a hook with the wrong signature", *lines, code="plugin_hooks"
            ) from outcome.error
        callers = self._manager.get_hookcallers(self._plugin) or []
        implemented = {caller.name for caller in callers}
        missing = [hook for hook in REQUIRED if hook not in implemented]
        if missing:
            unmarked = [hook for hook in missing if hasattr(self._plugin, hook)]
            raise self._fail(
                "lacks required hooks",
                "missing: " + ", ".join(missing),
                code="plugin_hooks",
                hint="decorate them with @quantmux.registry.hookimpl"
                if unmarked
                else "write a module with them and name it in the entry point",
            )

    def _call(self, hook: str) -> Any:
        outcome = guarded(getattr(self._manager.hook, hook))
        if outcome.error is not None:
            raise self._fail(
                f"raised in {hook}", describe(outcome.error), code="plugin_raised"
            ) from outcome.error
        results: list[Any] = outcome.value or []
        if len(results) != 1:  # pluggy drops None
            raise self._fail(f"returned nothing from {hook}", code="plugin_data")
        return results[0]

    def _info(self) -> BackendInfo:
        info = self._call("quantmux_backend")
        if not isinstance(info, BackendInfo):
            raise self._fail(
                f"returned {type(info).__name__} from quantmux_backend, not BackendInfo",
                code="plugin_data",
            )
        texts = {"name": info.name, "version": info.version, "api": info.api}
        for field, value in texts.items():
            if not isinstance(value, str):
                raise self._fail(
                    f"gave a BackendInfo whose {field} is {type(value).__name__}, not str",
                    code="plugin_data",
                )
        if info.name != self._name:
            raise self._fail(
                f'calls itself "{info.name}"',
                f"its entry point is named {self._name}",
                hint="use one name for both; kernel ids begin with it",
                code="plugin_data",
            )
        return info

    def _check_api(self, info: BackendInfo) -> None:
        host = ".".join(str(part) for part in HOOK_API)
        try:
            fits = SpecifierSet(info.api).contains(Version(host))
        except InvalidSpecifier:
            raise self._fail(
                f'names the API range "{info.api}", which is none',
                hint='a range in packaging\'s syntax, such as ">=1.0,<2"',
                code="plugin_api",
            ) from None
        if not fits:
            raise self._fail(
                "was written for another version of the plugin contract",
                f"plugin {info.version} needs API {info.api}",
                f"this quantmux has API {host}",
                hint="install a version of the plugin, or of quantmux, that fits the other",
                code="plugin_api",
            )

    def _check_hooks(self) -> None:
        for caller in self._manager.get_hookcallers(self._plugin) or []:
            if caller.name in HOOKS or all(i.optionalhook for i in caller.get_hookimpls()):
                continue
            near = closest(caller.name, HOOKS)
            raise self._fail(
                f"implements an unknown hook {caller.name}",
                "hooks: " + ", ".join(HOOKS),
                hint=f"did you mean {near}?" if near else None,
                code="plugin_hooks",
            )

    def _kernels(self) -> tuple[KernelSpec, ...]:
        answer = self._call("quantmux_kernels")
        if not isinstance(answer, Iterable) or isinstance(answer, str | bytes):
            raise self._fail(
                f"returned {type(answer).__name__} from quantmux_kernels, "
                "not an iterable of KernelSpec",
                code="plugin_data",
            )
        kernels = self._listed(answer)
        seen: set[str] = set()
        for kernel in kernels:
            if not isinstance(kernel, KernelSpec):
                raise self._fail(
                    f"returned {type(kernel).__name__} among its kernels, not KernelSpec",
                    code="plugin_data",
                )
            self._guard_spec(lambda kernel=kernel: kernel.check(self._name))  # type: ignore[misc]
            if kernel.id in seen:
                raise self._fail(f"registers {kernel.id} twice", code="conflict")
            seen.add(kernel.id)
        return kernels

    def _listed(self, answer: Iterable[Any]) -> tuple[Any, ...]:
        outcome = guarded(lambda: tuple(islice(answer, _MAX_KERNELS + 1)))
        if outcome.error is not None:
            raise self._fail(
                "raised while giving its kernels", describe(outcome.error), code="plugin_raised"
            ) from outcome.error
        kernels = outcome.value or ()
        if len(kernels) > _MAX_KERNELS:
            raise self._fail(f"gives more than {_MAX_KERNELS} kernels", code="plugin_data")
        return kernels

    def _guard_spec(self, check: Callable[[], None]) -> None:
        outcome = guarded(check)
        if isinstance(outcome.error, PluginError):
            outcome.error.distribution = self._distribution
            raise outcome.error
        if outcome.error is not None:
            raise self._fail(
                "gives a KernelSpec whose fields have the wrong types",
                describe(outcome.error),
                code="kernel_spec",
            ) from outcome.error
