"""The check ``compiles``: a kernel's device code for every named GPU it claims, without that GPU.

One cell is one kernel and one named profile of its architectures. The kernel is asked for the
machine code of one real config of everything it offers; what it gives must be machine code that
runs on that architecture.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from quantmux.config.settings import Settings
from quantmux.dispatch.eligible import judge
from quantmux.dispatch.inventory import Inventory
from quantmux.errors import BuildError, QuantmuxError
from quantmux.ops.spec import op_spec
from quantmux.registry.guard import describe, guarded
from quantmux.registry.protocol import CompiledCode
from quantmux.testing.cell import Cell, Outcome, Verdict
from quantmux.testing.compile_elf import code_problem

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.registry.manager import Registry

CHECK: Final = "compiles"
"""Name of the check."""

_Key = tuple[str, str, tuple[Any, ...]]
_done: Final[WeakKeyDictionary[Registry, dict[_Key, Outcome]]] = WeakKeyDictionary()


def compile_cells(
    registry: Registry,
    *,
    backend: str | None = None,
    ops: Collection[str] = (),
    kernels: Collection[str] = (),
    profiles: Collection[str] = (),
) -> tuple[Cell, ...]:
    """Give one cell per kernel and named GPU that it claims, in a fixed order.

    Composites of torch operations have no device code of their own and no cell.

    Args:
        registry: The plugins.
        backend: Only kernels of this one.
        ops: Only kernels of these ops; empty is all.
        kernels: Only these ids; empty is all.
        profiles: Only these profiles; empty is all.
    """
    known = registry.profiles()
    devices = [
        known[name]
        for name in known
        if known[name].arch.vendor in ("nvidia", "amd") and (not profiles or name in profiles)
    ]
    return tuple(
        Cell(spec.id, CHECK, device.name, detail=(("profile", device.name),))
        for spec in registry.kernels
        if backend in (None, spec.backend)
        and (not ops or spec.op in ops)
        and (not kernels or spec.id in kernels)
        and has_own_code(spec)
        for device in devices
        if any(device.arch in arch for arch in spec.capability.arch)
    )


def has_own_code(spec: KernelSpec) -> bool:
    """Tell whether a kernel may have device code of its own: it is no composite of operations."""
    return not spec.capability.is_reference and "composite" not in spec.capability.tags


def compile_configs(spec: KernelSpec, device: DeviceProfile) -> tuple[LayerConfig, ...]:
    """Give one real config of each operand, scheme and layout that a kernel serves on a device.

    The last case of an op that fits is taken: real layers come last.
    """
    inventory = Inventory(kernels=(spec,))
    settings = Settings()
    found: dict[Any, LayerConfig] = {}
    for case in op_spec(spec.op).cases():
        verdict = judge(spec, case.config, device, settings, inventory)
        if verdict.is_eligible:
            found[_variant(case.config)] = case.config
    return tuple(found.values())


def run_compile_cell(cell: Cell, registry: Registry) -> Outcome:
    """Compile what the cell asks for.

    Gives ``agrees`` when all of it is machine code for the profile's architecture, ``not_here``
    when the kernel offers no ``compile_for`` or the compiler is not on this machine, else
    ``fails``. Profiles of one architecture compile once in a process.
    """
    began = time.perf_counter()
    outcome = _run(cell, registry)
    seconds = time.perf_counter() - began
    return Outcome(outcome.verdict, outcome.reason, outcome.code, outcome.error, seconds)


def _run(cell: Cell, registry: Registry) -> Outcome:
    spec = registry.get(cell.kernel)
    device = registry.profiles()[dict(cell.detail)["profile"]]
    loaded = guarded(lambda: registry.load_kernel(spec.id))
    if loaded.error is not None:
        return _fails(f"cannot be loaded: {describe(_root(loaded.error))}", "kernel_import")
    method = getattr(loaded.value, "compile_for", None)
    if not callable(method):
        return Outcome(Verdict.NOT_HERE, "offers no compile_for", "no_compile_for")
    configs = compile_configs(spec, device)
    if not configs:
        reason = f"claims {device.arch}, and serves no case of {spec.op} on {device.name}"
        return _fails(reason, "no_case")
    done = _done.setdefault(registry, {})
    key = (spec.id, str(device.arch), configs)
    if key not in done:
        done[key] = _compile_all(method, configs, device)
    return done[key]


def _compile_all(method: Any, configs: Sequence[LayerConfig], device: DeviceProfile) -> Outcome:
    codes: list[CompiledCode] = []
    for config in configs:
        compiled = guarded(lambda config=config: method(config, device.arch))  # type: ignore[misc]
        if compiled.error is not None:
            return _refused(compiled.error, config)
        given: Any = compiled.value
        problem = _problem(given, device)
        if problem:
            return _fails(f"{config}: {problem}", "compiled_code")
        codes += given
    return Outcome(Verdict.AGREES, _summary(codes, len(configs)))


def _problem(given: Any, device: DeviceProfile) -> str | None:
    """Say what is wrong with what compile_for gave, None when nothing is."""
    if not isinstance(given, list | tuple):
        return f"compile_for gave a {type(given).__name__}, not a list of CompiledCode"
    if not given:
        return "compile_for gave nothing"
    for code in given:
        if not isinstance(code, CompiledCode):
            return f"compile_for gave a {type(code).__name__}, not a CompiledCode"
        problem = code_problem(code, device.arch)
        if problem:
            return problem
    return None


def _refused(error: BaseException, config: LayerConfig) -> Outcome:
    if isinstance(error, BuildError) and error.code == "no_compiler":
        facts = f" ({'; '.join(error.facts)})" if error.facts else ""
        return Outcome(Verdict.NOT_HERE, f"{error.headline}{facts}", error.code)
    if isinstance(error, QuantmuxError):
        text = ": ".join((error.headline, *(" | ".join(error.facts),) * bool(error.facts)))
        return _fails(f"{config}: {text}", error.code)
    return _fails(f"{config}: compile_for raised {describe(error)}", "compile_raised")


def _summary(codes: Sequence[CompiledCode], configs: int) -> str:
    kinds = Counter((code.tool, code.tool_version, code.target) for code in codes)
    made = ", ".join(
        f"{count} for {target} by {tool} {version}".rstrip()
        for (tool, version, target), count in sorted(kinds.items())
    )
    size = sum(len(code.code) for code in codes) / 1024
    return f"{configs} configs, machine code {made}, {size:.0f} KiB"


def _variant(config: Any) -> tuple[Any, ...]:
    """Give what makes another variant of a kernel's code than another config does."""
    operand = getattr(config, "scheme", None) or config.operand
    layout = getattr(config, "layout", None)
    moved = (getattr(config, "source", None), getattr(config, "target", None))
    names = tuple(None if item is None else item.scales for item in (layout, *moved))
    return (operand, names, getattr(config, "in_dtype", None), getattr(config, "bias", None))


def _fails(reason: str, code: str) -> Outcome:
    return Outcome(Verdict.FAILS, " ".join(reason.split()), code)


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
