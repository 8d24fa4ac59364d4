"""A library in this process: found, checked, loaded once, proved once on every GPU."""

from __future__ import annotations

import _ctypes
import ctypes
import importlib
import logging
import os
import threading
from typing import TYPE_CHECKING, Any, Final

from quantmux.capability.arch import Arch
from quantmux.errors import BuildError, ConfigError, NotBuiltError
from quantmux_cutlass import abi
from quantmux_cutlass.build.about import about_problems, read_about
from quantmux_cutlass.build.background import build_in_background
from quantmux_cutlass.build.entries import Entry, discard
from quantmux_cutlass.build.known import know
from quantmux_cutlass.build.maker import build_now
from quantmux_cutlass.build.settings import options
from quantmux_cutlass.build.state import State, state_of
from quantmux_cutlass.build.toolchain import runs_on
from quantmux_cutlass.interfaces import ALWAYS, INTERFACES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from quantmux_cutlass.build.keys import Key
    from quantmux_cutlass.units import Unit

log = logging.getLogger("quantmux.cutlass")

HINT: Final = "quantmux build cutlass compiles all of them beforehand"
_MODES: Final = ("background", "wait", "never")


class Library:
    """A loaded library. Its functions have the types of `quantmux_cutlass.interfaces`.

    They are called without the interpreter lock: a launch may have to wait for room in the stream.

    Attributes:
        unit: What it was compiled from.
        target: What it was compiled for.
        path: The file.
        about: What it says of itself: ``name``, ``targets``, ``cutlass``, ``digest``, more.
        handle: The `ctypes.CDLL`, for functions that the unit's interface does not name.
        plan_bytes: Bytes of a plan; 0 where the interface has none.
        plan: ``qm_plan``; as the next two, None where the interface has none.
        run: ``qm_run``.
        run_at: ``qm_run_at``.
    """

    def __init__(self, unit: Unit, target: str, path: Path, handle: ctypes.CDLL) -> None:
        self.unit = unit
        self.target = target
        self.path = path
        self.handle = handle
        self.about = read_about((handle.qm_about() or b"").decode("utf-8", errors="replace"))
        functions: dict[str, Any] = {
            name: getattr(handle, name) for name in INTERFACES[unit.interface]
        }
        size = functions.get("qm_plan_bytes")
        self.plan_bytes: int = int(size()) if size is not None else 0
        self.plan: Any = functions.get("qm_plan")
        self.run: Any = functions.get("qm_run")
        self.run_at: Any = functions.get("qm_run_at")

    def __repr__(self) -> str:
        return f"Library({self.unit.name}, {self.target}, {self.path})"


_lock: Final = threading.RLock()
_loaded: Final[dict[Path, Library]] = {}
_proved: Final[dict[tuple[Unit, str, int], Library | BuildError]] = {}


def library(unit: Unit, target: str, device_index: int, *, ask: bool = True) -> Library:
    """Give a unit's library for a target, loaded, checked and proved on the device.

    The first time in a process the file's bytes are compared with its record, then its ABI
    version, name, targets, digest and symbols with what was asked, its target with the device, and
    the unit's self-test is run there. After that it is a look into a dict.

    A library that is not there is compiled as option ``build`` of the plugin says: in the
    ``background`` (default), now (``wait``), or ``never``.

    Args:
        unit: What it is compiled from.
        target: One of its targets.
        device_index: CUDA ordinal of the device.
        ask: Have one that is not there compiled; else only say that it is not.

    Raises:
        NotBuiltError: It is not there (code ``not_built``); ``ready`` is set when it is.
        BuildError: It is not there and cannot be compiled (codes of `build_now`); or it is there
            and wrong: ``wrong_target`` for the device, ``self_test``; and of a prebuilt one
            ``truncated`` or ``abi``. One in the cache that is truncated or another than its name
            says is taken out and counts as not there.
    """
    key = (unit, target, device_index)
    known = _proved.get(key)
    if isinstance(known, Library):
        return known
    arch = device_arch(device_index)
    if not runs_on(target, arch):
        raise _wrong_target(unit, target, str(arch))
    if known is None:
        loaded = _load(unit, target, ask)
        with _lock:
            known = _proved.get(key)
            if known is None:
                known = _prove(loaded, device_index)
                _proved[key] = known
    if isinstance(known, BuildError):
        raise known
    return known


def open_library(entry: Entry, unit: Unit, target: str, key: Key) -> Library:
    """Load the library of a folder after checking that it is what its name says.

    Args:
        entry: The folder.
        unit: What the library should be made of.
        target: What it should be compiled for.
        key: Its digests; without a key of the compilers the source digest alone is compared.

    Raises:
        BuildError: Codes ``truncated``, ``abi``, ``wrong_target``, ``digest``.
    """
    found = _loaded.get(entry.library)
    if found is not None:
        return found
    problem = entry.problem()
    if problem is not None:
        code, reason = problem
        raise _wrong(unit, target, entry.library, (reason,), code)
    try:
        handle = ctypes.CDLL(str(entry.library), mode=os.RTLD_NOW | os.RTLD_LOCAL)
    except OSError as error:
        raise _wrong(unit, target, entry.library, (str(error),), "truncated") from error
    try:
        made = _checked(handle, entry, unit, target, key)
    except BuildError:
        _ctypes.dlclose(handle._handle)  # noqa: SLF001 - or the next of this path would be this
        raise
    _loaded[entry.library] = made
    return made


def _checked(handle: ctypes.CDLL, entry: Entry, unit: Unit, target: str, key: Key) -> Library:
    functions = {**ALWAYS, **INTERFACES[unit.interface]}
    missing = [name for name in functions if not hasattr(handle, name)]
    if missing:
        lines = tuple(f"it does not export {name}" for name in missing)
        raise _wrong(unit, target, entry.library, lines, "abi")
    for name, (result, arguments) in functions.items():
        function = getattr(handle, name)
        function.restype, function.argtypes = result, arguments
    version = int(handle.qm_abi())
    if version != abi.VERSION:
        reason = f"ABI version {version}, this quantmux speaks {abi.VERSION}"
        raise _wrong(unit, target, entry.library, (reason,), "abi")
    made = Library(unit, target, entry.library, handle)
    facts = about_problems(made.about, unit, target, key)
    if facts:
        other = any(fact.startswith("targets") for fact in facts)
        code = "wrong_target" if other else "digest"
        raise _wrong(unit, target, entry.library, tuple(facts), code)
    return made


def device_arch(index: int) -> Arch:
    """Give the architecture of a CUDA device of this process."""
    import torch

    major, minor = torch.cuda.get_device_capability(index)
    return Arch(vendor="nvidia", name=f"{major}{minor}")


def build_mode() -> str:
    """Give option ``build``: ``background``, ``wait`` or ``never``.

    Raises:
        ConfigError: It is something else.
    """
    mode = options().get("build", "background")
    if mode not in _MODES:
        raise ConfigError(
            "option build of the plugin cutlass is not known",
            facts={"needs": " · ".join(_MODES), "found": repr(mode)},
        )
    return str(mode)


def forget() -> None:
    """Look, check and prove anew at the next question; what is loaded stays loaded."""
    with _lock:
        _loaded.clear()
        _proved.clear()


def _load(unit: Unit, target: str, ask: bool) -> Library:
    """Give the library from the cache or the prebuilt ones; else see that it is made."""
    with _lock:
        found = _find(unit, target)
    if found is not None:
        return found
    if not ask:
        raise NotBuiltError(f"{unit.name} for {target} is not compiled", hint=HINT)
    _ask_for(unit, target)
    with _lock:
        found = _find(unit, target)  # it was compiled now
    if found is None:
        raise NotBuiltError(f"{unit.name} for {target} was compiled, and is not there")
    return found


def _find(unit: Unit, target: str) -> Library | None:
    known = know(unit, target)
    entry = known.cached()
    if entry is not None:
        try:
            return open_library(entry, unit, target, known.key)
        except BuildError as error:
            log.warning("%s\n  it is taken out of the cache", error)
            discard(entry.folder)
    entry = known.prebuilt()
    return None if entry is None else open_library(entry, unit, target, known.by_source)


def _ask_for(unit: Unit, target: str) -> None:
    """See to a library that is not there: return when it is made, else raise."""
    state, reason = state_of(unit, target)
    mode = build_mode()
    if state is State.IMPOSSIBLE or mode == "wait":
        build_now(unit, target)  # raises the reason in full where it is impossible
        return
    what = f"{unit.name} for {target} is not compiled yet"
    if mode == "never":
        raise NotBuiltError(
            what,
            facts=['option build of the plugin cutlass is "never"', reason],
            hint=HINT,
        )
    build = build_in_background(unit, target)
    if build.done.is_set():
        if build.error is not None:
            raise build.error
        return
    raise NotBuiltError(
        f"{what}: it is being compiled in the background, about {build.seconds_left:.0f} s",
        ready=build.done,
        hint=HINT,
    )


def _prove(found: Library, device_index: int) -> Library | BuildError:
    """Run the unit's self-test; gives the library, or the error that everybody gets from now on.

    What is not the library's fault is raised, and the test is run again for who asks next.
    """
    unit = found.unit
    if not unit.self_test:
        return found
    module, _, name = unit.self_test.partition(":")
    test: Callable[[Library, int], str | None] = getattr(importlib.import_module(module), name)
    try:
        problem = test(found, device_index)
    except Exception as error:
        # imported here: it imports torch, which who only asks for states has not paid for
        from quantmux.runtime.failures import Failure, classify

        if classify(error) is not Failure.KERNEL:  # no memory left, or the context lost before
            raise
        refusal = _self_test(found, device_index, f"{type(error).__name__}: {error}")
        refusal.__cause__ = error
        return refusal
    return found if problem is None else _self_test(found, device_index, problem)


def _self_test(found: Library, device_index: int, problem: str) -> BuildError:
    return BuildError(
        f"{found.unit.name} for {found.target} computes wrong on cuda:{device_index}",
        facts=[problem, f"library: {found.path}"],
        hint="other kernels serve; please report this with the output of quantmux doctor",
        code="self_test",
    )


def _wrong_target(unit: Unit, target: str, arch: str) -> BuildError:
    return BuildError(
        f"{unit.name} for {target} does not run on {arch}",
        facts={"compiled for": target, "device": arch},
        hint="code with a letter runs on that architecture or family only",
        code="wrong_target",
    )


def _wrong(unit: Unit, target: str, path: Path, facts: tuple[str, ...], code: str) -> BuildError:
    return BuildError(
        f"the library of {unit.name} for {target} is not what its name says",
        facts=(f"file: {path}", *facts),
        hint="quantmux build cutlass --force; a prebuilt one: make or copy it again",
        code=code,
    )
