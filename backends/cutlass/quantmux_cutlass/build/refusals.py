"""Why a library was not made, as errors: what was asked, what was found, what to do next."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from quantmux.errors import BuildError
from quantmux.testing.compile_log import last_lines

if TYPE_CHECKING:
    from pathlib import Path

    from quantmux.capability.rejection import Rejection
    from quantmux_cutlass.build.failures import Failure
    from quantmux_cutlass.build.nvcc_run import Ran
    from quantmux_cutlass.units import Unit

_FULL: Final = (
    "No space left on device",
    "Disk quota exceeded",
    "File size limit exceeded",
    "File too large",
)
_KILLED: Final = ("Kill signal", "Killed", "signal 9", "out of memory", "cannot allocate memory")
_FULL_ERRORS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SIGKILL, _SIGXFSZ = -9, -25

_FREE: Final = (
    "free some space, or name another folder: "
    '[plugins.cutlass] options = { cache = "/a/folder" } in plugins.toml, or QUANTMUX_CACHE_DIR'
)


def cannot_build(unit: Unit, target: str, rejection: Rejection) -> BuildError:
    """Give the error for a machine that cannot compile the unit."""
    code = "no_compiler" if rejection.field == "nvcc" else "headers"
    return BuildError(
        f"{unit.name} cannot be compiled for {target} here",
        facts={"needs": rejection.required, "found": rejection.actual},
        hint=rejection.hint,
        code=code,
    )


def failed_before(unit: Unit, target: str, failure: Failure) -> BuildError:
    """Give the error for a build that has failed before, with the same input."""
    return BuildError(
        f"{unit.name} did not compile for {target} on {failure.when}, and nothing has changed",
        facts=failure.log,
        hint="install another nvcc or other headers; or try again: quantmux build cutlass --force",
        code=failure.code,
    )


def run_failed(unit: Unit, target: str, ran: Ran, timeout: float) -> BuildError:
    """Give the error for a compiler that did not do it."""
    lines = tuple(last_lines(ran.log))
    what = f"{unit.name} for {target}"
    if ran.why == "interrupted":
        return BuildError(
            f"compiling {what} was interrupted: its compiler was killed", code="interrupted"
        )
    if ran.why == "timeout":
        return BuildError(
            f"compiling {what} timed out: it was ended after {timeout:g} s",
            facts=lines,
            hint="build when the machine is less busy: quantmux build cutlass --force --jobs 1",
            code="timeout",
        )
    if ran.status == _SIGXFSZ or any(mark in ran.log for mark in _FULL):
        return BuildError(
            f"compiling {what}: the disk is full", facts=lines, hint=_FREE, code="disk"
        )
    if ran.status == _SIGKILL or any(mark in ran.log for mark in _KILLED):
        return BuildError(
            f"compiling {what} was killed from outside, as when memory runs out",
            facts=(f"it takes about {unit.memory_gib:g} GiB", *lines),
            hint="free some memory, or: quantmux build cutlass --jobs 1",
            code="memory",
        )
    return BuildError(
        f"nvcc cannot compile {what} (status {ran.status})",
        facts=lines or ("it printed nothing",),
        hint="other kernels serve meanwhile; what nvcc says stands above",
        code="compile",
    )


def library_wrong(unit: Unit, target: str, facts: tuple[str, ...]) -> BuildError:
    """Give the error for a library that was made and is not what was asked."""
    return BuildError(
        f"the library made of {unit.name} for {target} is not right",
        facts=facts,
        hint="other kernels serve meanwhile; please report this",
        code="library",
    )


def disk_refused(unit: Unit, target: str, cache: Path, error: OSError) -> BuildError:
    """Give the error for a cache folder that cannot be written."""
    full = error.errno in _FULL_ERRORS
    what = "the disk is full" if full else "the folder for libraries cannot be written"
    return BuildError(
        f"{unit.name} for {target} cannot be kept: {what}",
        facts={"folder": cache, "found": error.strerror or error, "at": error.filename or cache},
        hint=_FREE,
        code="disk" if full else "cache",
    )
