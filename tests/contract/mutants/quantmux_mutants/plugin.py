"""The plugin ``mutants``. Imports neither torch nor a kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux import BackendInfo, KernelSpec, hookimpl
from quantmux_mutants import roster

if TYPE_CHECKING:
    from collections.abc import Iterable


@hookimpl
def quantmux_backend() -> BackendInfo:
    return BackendInfo(name="mutants", version="1.0.0", summary="kernels with one fault each")


@hookimpl
def quantmux_kernels() -> Iterable[KernelSpec]:
    return roster.kernels()


class Few:
    """The same backend with some of its kernels: kernels share prepared weights, mutants do not."""

    def __init__(self, ids: frozenset[str]) -> None:
        self.ids = ids

    @hookimpl
    def quantmux_backend(self) -> BackendInfo:
        return quantmux_backend()

    @hookimpl
    def quantmux_kernels(self) -> Iterable[KernelSpec]:
        return tuple(spec for spec in roster.kernels() if spec.id in self.ids)
