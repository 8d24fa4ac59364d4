"""In what state a module is, without importing or compiling anything."""

from __future__ import annotations

import os
import re
import time
from enum import StrEnum
from functools import cache
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Final

from packaging.version import InvalidVersion, Version

from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.errors import QuantmuxError
from quantmux_flashinfer.cubins import cubins_rejection
from quantmux_flashinfer.jit import background
from quantmux_flashinfer.jit.failures import find_failure, ground_of
from quantmux_flashinfer.jit.freshness import why_stale
from quantmux_flashinfer.jit.gpus import target_for
from quantmux_flashinfer.jit.modules import MODULES
from quantmux_flashinfer.jit.place import find_place, shipped
from quantmux_flashinfer.jit.settings import build_mode
from quantmux_flashinfer.jit.targets import VARIABLE
from quantmux_flashinfer.jit.toolchain import can_build, find_toolchain, tool
from quantmux_flashinfer.surface.installed import installed_surface

if TYPE_CHECKING:
    from quantmux.capability.arch import Arch
    from quantmux_flashinfer.jit.modules import JitModule
    from quantmux_flashinfer.jit.place import Place

_KEPT_S: Final = 2.0
"""A selection asks for every kernel; looking at files each time would take its whole budget."""

_CUDA: Final = re.compile(r"^cuda\s*(?::[^=]*)?=\s*['\"]([\d.]+)['\"]", re.MULTILINE)
_DISABLED: Final = "FLASHINFER_DISABLE_JIT"
_BUILD: Final = "quantmux build flashinfer"

_answers: Final[dict[tuple[str, Arch], tuple[float, Rejection | None]]] = {}


class State(StrEnum):
    """States of a module."""

    BUILT = "built"
    PREBUILT = "prebuilt"
    BUILDING = "building"
    FAILED = "failed"
    MISSING = "missing"
    IMPOSSIBLE = "impossible"


THERE: Final = (State.BUILT, State.PREBUILT)
"""States in which FlashInfer loads a module at once."""


def state_of(name: str, target: str) -> tuple[State, str]:
    """Give the state of a module and, in one line, why or where. Quick, and never raises.

    ============== ==============================================================
    ``built``      where FlashInfer looks, by us or another program, with today's flags
    ``prebuilt``   somebody else compiled it: in FlashInfer's package or its wheels
    ``building``   this process compiles it in the background
    ``failed``     it did not compile, and nothing has changed since
    ``missing``    it can be compiled
    ``impossible`` it is not there, and a compiler, a header or a library is missing
    ============== ==============================================================

    Args:
        name: Of a module.
        target: What it is compiled for, as in `targets`.
    """
    state, reason, _ = _look(name, target)
    return state, reason


def why_not(name: str, arch: Arch) -> Rejection | None:
    """Tell why no kernel can have a module on GPUs of an architecture here, None when one can.

    One that is not compiled yet can be had, unless option ``build`` says ``never``; one whose last
    compilation failed cannot, until something changes. The answer is remembered for two seconds.
    """
    now = time.monotonic()
    then, known = _answers.get((name, arch), (-_KEPT_S, None))
    if now - then < _KEPT_S:
        return known
    found = _why_not(name, arch)
    _answers[name, arch] = now, found
    return found


def refusal(name: str, target: str) -> Rejection | None:
    """Tell why a module cannot be compiled here, None when it can, or is there."""
    return _look(name, target)[2]


def forget() -> None:
    """Look again at the next question."""
    _answers.clear()
    _torch_cuda.cache_clear()
    _has_generator.cache_clear()


def _why_not(name: str, arch: Arch) -> Rejection | None:
    module = MODULES[name]
    toolchain = find_toolchain()
    target = target_for(arch, toolchain.version)
    if not target:
        listed = f"{VARIABLE}={os.environ.get(VARIABLE)}"
        return tool(VARIABLE, f"modules for {arch}", listed, f"unset {VARIABLE}")
    state, reason, refused = _look(name, target)
    if state in THERE:
        return _at_calls(module, toolchain.nvcc is not None)
    if refused is not None:
        return refused
    if state is State.FAILED:
        need = f"{name} for {target}"
        return tool("module", need, f"it did not compile, {reason}", f"{_BUILD} --force")
    try:
        is_never = build_mode() == "never"
    except QuantmuxError as error:
        return tool("build", "a known option build", error.headline, "; ".join(error.facts))
    if not is_never:
        return None
    return Rejection(
        RejectionCode.NOT_BUILT,
        "module",
        f"{name} for {target}",
        'not compiled, and build = "never"',
        _BUILD,
    )


def _at_calls(module: JitModule, has_nvcc: bool) -> Rejection | None:
    if not module.compiles_calls or has_nvcc:
        return None
    need = "nvcc at the first call of every new shape"
    return tool("nvcc", need, "none", "install the CUDA toolkit and set CUDA_HOME to it")


def _look(name: str, target: str) -> tuple[State, str, Rejection | None]:
    try:
        place = find_place()
    except QuantmuxError as error:
        no = tool("workspace", "a folder", error.headline, "; ".join(error.facts))
        return State.IMPOSSIBLE, no.text, no
    if place is None:
        no = Rejection(
            RejectionCode.NEEDS_PACKAGE,
            "flashinfer-python",
            "flashinfer-python",
            "not installed",
            "pip install 'quantmux[flashinfer]'",
        )
        return State.IMPOSSIBLE, no.text, no
    given = shipped(place, name)
    if given is not None:
        return State.PREBUILT, str(given), None
    return _compiled(MODULES[name], target, place)


def _compiled(module: JitModule, target: str, place: Place) -> tuple[State, str, Rejection | None]:
    name, toolchain = module.name, find_toolchain()
    refused = (
        _disabled(module)
        or _of_release(module, place)
        or can_build(module, target, toolchain)
        or _besides(module)
    )
    if refused is not None:
        return State.IMPOSSIBLE, f"{refused.text} ({refused.hint})", refused
    stale = why_stale(place.module(name, target), toolchain)
    if not stale:
        return State.BUILT, str(place.library(name, target)), None
    build = background.in_background(name, target)
    if build is not None and not build.done.is_set():
        return State.BUILDING, f"about {build.seconds_left:.0f} s", None
    if build is not None and build.error is not None and build.error.code != "interrupted":
        return State.FAILED, build.error.headline, None
    failure = find_failure(name, target, ground_of(place, toolchain))
    if failure is not None:
        first = failure.log[0] if failure.log else failure.code
        return State.FAILED, f"{failure.when}: {first}", None
    again = f"; {stale}" if place.library(name, target).exists() else ""
    return State.MISSING, f"about {module.seconds:.0f} s to compile{again}", None


def _disabled(module: JitModule) -> Rejection | None:
    if not os.environ.get(_DISABLED):
        return None
    found = f"{_DISABLED} is set, and nobody shipped it"
    return tool("module", f"{module.name}", found, f"unset {_DISABLED}, or install its wheels")


def _of_release(module: JitModule, place: Place) -> Rejection | None:
    if _has_generator(place.package, module.generator):
        return None
    return tool(
        "flashinfer-python",
        f"a release with the module {module.name}",
        place.version,
        "pip install --upgrade 'quantmux[flashinfer]'",
    )


@cache
def _has_generator(package: Path, generator: str) -> bool:
    """Tell whether a release defines a generator, by its files; True where it cannot be told."""
    path, _, name = generator.partition(":")
    file = package.joinpath(*path.split(".")[1:])
    files = [file.with_suffix(".py"), *sorted(file.glob("*.py"), key=_cake_last)]
    there = [file for file in files if file.is_file()]
    return not there or any(f"def {name}(" in _text(file) for file in there)


def _cake_last(file: Path) -> tuple[bool, str]:
    return file.name.startswith("cake_"), file.name  # generated, and large


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _besides(module: JitModule) -> Rejection | None:
    """Tell what stands against a module but the compilers: torch, or files never downloaded."""
    if module.torch_cuda is not None:
        cuda = _torch_cuda()  # a torch without CUDA only compiles for other machines
        if cuda and _older(cuda, module.torch_cuda):
            need = f"one for CUDA {module.torch_cuda} or later"
            hint = "install a torch of a later CUDA version"
            return tool("torch", need, f"CUDA {cuda}", hint)
    if not module.cubins:
        return None
    surface = installed_surface(())
    return cubins_rejection(surface) if surface is not None else None


@cache
def _torch_cuda() -> str:
    """Give the CUDA version that torch was made for, from its version file; "" without one."""
    try:
        spec = util.find_spec("torch")
        folder = Path(spec.origin).parent if spec is not None and spec.origin else None
        text = (folder / "version.py").read_text(encoding="utf-8") if folder else ""
    except (ImportError, ValueError, OSError):
        return ""
    found = _CUDA.search(text)
    return found[1] if found else ""


def _older(version: str, needed: str) -> bool:
    try:
        return Version(version) < Version(needed)
    except InvalidVersion:
        return True
