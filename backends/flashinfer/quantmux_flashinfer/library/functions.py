"""A function of FlashInfer, ready to be called: imported, checked, its modules compiled."""

from __future__ import annotations

import inspect
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from quantmux.errors import BuildError
from quantmux_flashinfer.library import cudnn_handle, loading
from quantmux_flashinfer.library.failures import translated
from quantmux_flashinfer.library.guards import guarded

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux.capability.device import DeviceProfile
    from quantmux_flashinfer.entries import Entry

_LOCK: Final = threading.Lock()
_ready: Final[dict[tuple[Entry, int | None, int], Callable[..., Any]]] = {}


def function(entry: Entry, device: DeviceProfile) -> Callable[..., Any]:
    """Give the function that an entry names, for a device that is here.

    The first call of the process imports FlashInfer. Modules that are not compiled yet are asked
    for; nothing is compiled in the calling thread unless option ``build`` says ``wait``. What comes
    back may be called from any thread and stream, and in a capture (`guards`).

    Raises:
        BuildError: The installed release does not have it or does not serve the device (code
            ``unsupported``), or a package, tool, header or library is missing (code
            ``unavailable``), or its compilation failed.
        NotBuiltError: A module is being compiled in the background.
    """
    key = (entry, device.arch.sm, device.index or 0)
    found = _ready.get(key)
    if found is None:
        made = _make(entry, device)
        with _LOCK:
            found = _ready.setdefault(key, made)
    return found


def attribute(path: str) -> Any:
    """Give what ``module:name.name`` names in FlashInfer: a member of an enum, a helper.

    Raises:
        BuildError: FlashInfer does not import (code ``unavailable``), or the installed release does
            not have it (code ``unsupported``).
    """
    return loading.resolved(path)


def check(entry: Entry, sm: int | None) -> Callable[..., Any]:
    """Give the function itself, after holding it against an entry.

    Args:
        entry: What is going to be called.
        sm: Compute capability as major · 10 + minor.

    Raises:
        BuildError: As `function`.
    """
    for package, module in entry.packages:
        _require(package, module, entry)
    call: Any = loading.resolved(entry.function)
    _check_call(call, entry)
    if entry.is_gated:
        _check_gate(call, entry, sm)
    given: Callable[..., Any] = call
    return given


def _make(entry: Entry, device: DeviceProfile) -> Callable[..., Any]:
    call = check(entry, device.arch.sm)
    modules = entry.modules_on(device.arch)
    if modules:
        from quantmux_flashinfer.jit.demand import ensure

        ensure(modules, device)
    index = device.index or 0
    if entry.backend == "cudnn":
        with translated(entry):
            cudnn_handle.ready(index)
    return guarded(call, entry.name, index)


def _require(package: str, module: str, entry: Entry) -> None:
    try:
        is_there = find_spec(module) is not None
    except (ImportError, ValueError):  # its parent does not import, or half of it was removed
        is_there = False
    if not is_there:
        raise BuildError(
            f"{_name(entry)} needs {package}",
            facts={"needs": f"module {module}", "found": "none"},
            hint=f"pip install {package}",
            code="unavailable",
        )


def _check_call(call: Any, entry: Entry) -> None:
    """Hold the call that a kernel makes against the function's own signature."""
    try:
        has = inspect.signature(call).parameters
    except (TypeError, ValueError) as error:
        raise _unsupported(entry, {"needs": "a function", "found": repr(call)[:80]}) from error
    takes_any = any(p.kind is p.VAR_KEYWORD for p in has.values())
    passed = {*entry.parameters, *(("backend",) if entry.backend is not None else ())}
    if hasattr(call, "is_compute_capability_supported"):
        passed.discard("skip_check")  # its decorator takes it, and no signature shows it
    if (missing := passed - has.keys()) and not takes_any:
        raise _unsupported(entry, {"needs": f"parameter {', '.join(sorted(missing))}"})
    named = (p for p in has.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
    unpassed = [p.name for p in named if p.default is p.empty and p.name not in passed]
    if unpassed:
        found = f"it wants {', '.join(unpassed)} as well"
        raise _unsupported(entry, {"needs": ", ".join(entry.parameters), "found": found})


def _check_gate(call: Any, entry: Entry, sm: int | None) -> None:
    """Ask the library's own decorator; a release without one does not say that it serves."""
    given = (sm,) if entry.backend is None else (entry.backend, sm)
    question = "is_compute_capability" if entry.backend is None else "is_backend"
    ask = getattr(call, f"{question}_supported", None)
    if ask is None:
        raise _unsupported(entry, {"needs": f"{entry.name}.{question}_supported", "found": "none"})
    try:
        answer = ask(*given)
    except ValueError as error:  # it has no back ends, or no list of architectures
        raise _unsupported(entry, {"found": " ".join(str(error).split())}) from error
    if entry.backend in getattr(call, "experimental_backends", ()):
        raise _unsupported(entry, {"found": "the library marks this back end as experimental"})
    if answer is not True:
        asked = f"{question}_supported({', '.join(map(repr, given))})"
        raise _unsupported(entry, {"asked": asked, "found": repr(answer)})


def _unsupported(entry: Entry, facts: dict[str, str]) -> BuildError:
    return BuildError(
        f"the installed FlashInfer does not serve {_name(entry)}",
        facts={**facts, "version": loading.version()},
        hint="another kernel serves; install a release from 0.7.2 on for the most of them",
        code="unsupported",
    )


def _name(entry: Entry) -> str:
    return entry.function + (f' with backend "{entry.backend}"' if entry.backend else "")
