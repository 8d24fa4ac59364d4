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
