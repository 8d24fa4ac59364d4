"""Why a module was not made, as errors: what was asked, what was found, what to do next."""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING, Final

from quantmux.errors import BuildError
from quantmux.testing.compile_log import last_lines
from quantmux_flashinfer.jit.worker import UNSUPPORTED

if TYPE_CHECKING:
    from quantmux.capability.rejection import Rejection
    from quantmux_flashinfer.jit.failures import Failure
    from quantmux_flashinfer.jit.modules import JitModule
    from quantmux_flashinfer.jit.process import Ran

_FULL: Final = ("No space left on device", "Disk quota exceeded", "File too large")
_CLOSED: Final = ("Permission denied", "Read-only file system", "PermissionError")
_NO_IMPORT: Final = re.compile(r"^(ModuleNotFound|Import)Error: ", re.MULTILINE)
_KILLED: Final = ("Killed", "signal 9", "out of memory", "cannot allocate memory")
_FULL_ERRORS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SIGKILL: Final = -9
_TOOLS: Final = ("nvcc", "c++", "ninja")
_WRONG: Final = re.compile(r"error|FAILED|undefined reference|cannot find|fatal", re.IGNORECASE)
_NOISE: Final = re.compile(r"^\[\d+/\d+\]|^ninja: Entering|CalledProcessError")
_LINES: Final = 8

_FREE: Final = (
    "free some space, or name another folder: "
    '[plugins.flashinfer] options = { workspace = "/a/folder" } in plugins.toml'
)


def cannot_build(name: str, target: str, rejection: Rejection, code: str = "") -> BuildError:
    """Give the error for a machine that cannot compile a module.

    Args:
        name: The module.
        target: What for.
        rejection: What is missing.
        code: Of the error; "" is ``no_compiler`` for a program that is missing, else ``headers``.
    """
    own = "no_compiler" if rejection.field in _TOOLS else "headers"
    return BuildError(
        f"FlashInfer's module {name} cannot be compiled for {target} here",
        facts={"needs": rejection.required, "found": rejection.actual},
        hint=rejection.hint,
        code=code or own,
    )


def failed_before(name: str, target: str, failure: Failure) -> BuildError:
    """Give the error for a compilation that has failed before, with the same input."""
    return BuildError(
        f"FlashInfer's module {name} did not compile for {target} on {failure.when}, "
        "and nothing has changed",
        facts=failure.log,
        hint="install another nvcc or another FlashInfer; or try again: "
        "quantmux build flashinfer --force",
        code=failure.code,
    )


def run_failed(module: JitModule, target: str, ran: Ran, timeout: float) -> BuildError:
    """Give the error for a worker that did not do it."""
    lines = telling_lines(ran.log)
    what = f"FlashInfer's module {module.name} for {target}"
    if ran.why == "interrupted":
        return BuildError(
            f"compiling {what} was interrupted: its compilers were killed", code="interrupted"
        )
    if ran.why == "timeout":
        return BuildError(
            f"compiling {what} timed out: it was ended after {timeout:g} s",
            facts=lines,
            hint="build when the machine is less busy: quantmux build flashinfer --force",
            code="timeout",
        )
    if ran.status == UNSUPPORTED:
        return BuildError(f"{what}: the installed release has none", facts=lines, code="compile")
    if any(mark in ran.log for mark in _FULL):
        return BuildError(
            f"compiling {what}: the disk is full", facts=lines, hint=_FREE, code="disk"
        )
    if any(mark in ran.log for mark in _CLOSED):
        return BuildError(
            f"compiling {what}: a folder cannot be written", facts=lines, hint=_FREE, code="cache"
        )
    if _NO_IMPORT.search(ran.log):
        return BuildError(
            f"compiling {what}: FlashInfer does not import",
            facts=lines,
            hint="pip install 'quantmux[flashinfer]'",
            code="unavailable",
        )
    if ran.status == _SIGKILL or any(mark in ran.log for mark in _KILLED):
        return BuildError(
            f"compiling {what} was killed from outside, as when memory runs out",
            facts=(f"one of its compilers takes about {module.memory_gib:g} GiB", *lines),
            hint="free some memory, or: quantmux build flashinfer --jobs 1",
            code="memory",
        )
    return BuildError(
        f"{what} does not compile (status {ran.status})",
        facts=lines or ("it printed nothing",),
        hint="other kernels serve meanwhile; what the compilers say stands above",
        code="compile",
    )


def disk_refused(name: str, target: str, error: OSError) -> BuildError:
    """Give the error for a folder that cannot be written."""
    full = error.errno in _FULL_ERRORS
    what = "the disk is full" if full else "a folder cannot be written"
    return BuildError(
        f"FlashInfer's module {name} for {target} cannot be kept: {what}",
        facts={"found": error.strerror or error, "at": error.filename or "an unnamed file"},
        hint=_FREE,
        code="disk" if full else "cache",
    )


def telling_lines(log: str) -> tuple[str, ...]:
    """Give the lines of ninja's output that tell what is wrong; its last ones when none does.

    ninja repeats each command, thousands of characters long, and what failed may stand far above
    the end, since it lets the other compilers finish.
    """
    said = log.partition("ninja: build stopped")[0]  # after it, only that ninja failed
    lines = [line for line in said.splitlines() if not _NOISE.search(line)]
    telling = [line for line in lines if _WRONG.search(line) and len(line) < 1000]
    return tuple(last_lines("\n".join(telling[:_LINES] or lines), _LINES))
