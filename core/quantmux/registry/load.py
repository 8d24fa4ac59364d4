"""Importing a kernel, at the moment it is first bound and never before."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

from quantmux.errors import BuildError, PluginError
from quantmux.registry.guard import describe, guarded
from quantmux.registry.protocol import ROLE_METHODS, missing_methods

if TYPE_CHECKING:
    from quantmux.registry.kernel_spec import KernelSpec


def load_kernel(kernel: KernelSpec, distribution: str | None = None) -> Any:
    """Import what ``kernel.load`` names and check that it offers the methods of its op.

    Raises:
        BuildError: Importing the module raised; the exception is the cause.
        PluginError: The module lacks the attribute, or the object lacks methods.
    """
    module_name, _, attribute = kernel.load.partition(":")
    outcome = guarded(lambda: import_module(module_name))
    if outcome.error is not None:
        raise BuildError(
            f"kernel {kernel.id} cannot be imported",
            facts=[f"{module_name}: {describe(outcome.error)}"],
            hint=f"run: quantmux doctor, which shows what {kernel.backend} needs",
            code="kernel_import",
        ) from outcome.error
    found = guarded(lambda: getattr(outcome.value, attribute))
    if found.error is not None:
        raise _broken(kernel, distribution, f"{module_name} has no {attribute}") from found.error
    instance = found.value
    missing = missing_methods(kernel.op, instance)
    if missing:
        raise _broken(kernel, distribution, f"{kernel.load} lacks " + ", ".join(missing))
    unbound = [m for m in ROLE_METHODS[kernel.op] if _is_unbound(instance, m)]
    if unbound:
        raise _broken(
            kernel,
            distribution,
            f"{kernel.load} is a class, its {', '.join(unbound)} would lack self",
            hint="name an instance",
        )
    return instance


def _is_unbound(instance: Any, method: str) -> bool:
    return isinstance(instance, type) and inspect.isfunction(
        inspect.getattr_static(instance, method, None)
    )


def _broken(
    kernel: KernelSpec, distribution: str | None, fact: str, hint: str | None = None
) -> PluginError:
    needed = ", ".join(ROLE_METHODS[kernel.op])
    return PluginError(
        f"kernel {kernel.id} does not keep the protocol of {kernel.op}",
        plugin=kernel.backend,
        distribution=distribution,
        facts=[fact, f"needed: {needed}"],
        hint=hint,
        code="kernel_protocol",
    )
