"""Calling compiled libraries: opening them, plans, and what a status means.

`docs/decisions/0013-calls-into-native-code.md` has the measurements behind the shape of a call.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.errors import LaunchError
from quantmux_cutlass import abi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from quantmux.capability.device import DeviceProfile
    from quantmux.errors import RunError
    from quantmux_cutlass.build.library import Library
    from quantmux_cutlass.units import Unit

_PLAN_ALIGNMENT: Final = 64
"""A plan may hold TMA descriptors, which the hardware wants there."""

_OUT_OF_MEMORY: Final = 2
_STICKY: Final = frozenset({214, 220, 226, 700, 702, 709, 710, *range(714, 720), 721, 999})
"""cudaError numbers after which every call of the process fails: the context is lost."""

_opened: Final[set[tuple[str, int]]] = set()


def opened(units: Iterable[Unit], device: DeviceProfile) -> dict[Unit, Library]:
    """Load the libraries of units for a device that is here; those loaded before are kept.

    All of them are asked for before an error is raised, so that those that are not built are
    compiled together and not one after the other; one that never will be is told of first.

    Raises:
        BuildError: A library is not built (code ``not_built``), is broken, or has no target that
            runs on the device.
    """
    from quantmux_cutlass.demand import libraries

    found = libraries(units, device)
    _opened.update((unit.name, device.index or 0) for unit in found)
    return found


def opened_count() -> int:
    """Give how many libraries this process has opened, one device each."""
    return len(_opened)


class Plan:
    """A layer in one library: what ``qm_plan`` wrote, and the functions that read it.

    Attributes:
        address: Of the plan, for the functions.
        run: ``qm_run``.
        run_at: ``qm_run_at``.
    """

    __slots__ = ("_keep", "address", "run", "run_at")

    def __init__(self, library: Library, problem: abi.Problem, keep: tuple[Any, ...] = ()) -> None:
        """Have the library check and digest a problem.

        Args:
            library: From `opened`.
            problem: What the layer is.
            keep: What the plan points into, held as long as the plan.

        Raises:
            LaunchError: The library refuses the problem, or CUDA does.
        """
        memory = ctypes.create_string_buffer(library.plan_bytes + _PLAN_ALIGNMENT)
        self.address = -(-ctypes.addressof(memory) // _PLAN_ALIGNMENT) * _PLAN_ALIGNMENT
        self.run: Callable[..., int] = library.run
        self.run_at: Callable[..., int] = library.run_at
        self._keep = (memory, library, *keep)
        status = library.plan(ctypes.addressof(problem), self.address)
        if status:
            raise failure(status, f"qm_plan of {library.unit.name}", facts_of(problem))


def facts_of(problem: abi.Problem) -> dict[str, object]:
    """Give what a library was asked, for messages."""
    return {
        "problem": f"N={problem.n} K={problem.k}",
        "rows": f"w {problem.w_row}, x {problem.x_row}, y {problem.y_row} elements apart",
        "options": list(problem.option),
    }


def failure(status: int, doing: str, facts: dict[str, object]) -> RunError | RuntimeError:
    """Give the exception for a status that is not 0.

    Args:
        status: Of ``qm_plan`` or ``qm_run``.
        doing: Whose it is.
        facts: What it was given.
    """
    if status < abi.CUDA:
        text = abi.STATUS.get(status, "a status that this version does not know")
        return LaunchError(
            f"{doing} refused: {text}",
            facts={"status": status, **facts},
            hint="the next kernel in order serves; report it with the facts above",
            code=f"qm_{status}",
        )
    number = status - abi.CUDA
    if number == _OUT_OF_MEMORY:
        return torch.OutOfMemoryError(f"CUDA out of memory in {doing} (cudaError 2)")
    is_lost = number in _STICKY
    return LaunchError(
        f"{doing} failed: CUDA error {number}",
        context_poisoned=is_lost,
        facts=facts,
        hint="restart the process: its CUDA context is lost"
        if is_lost
        else "see cudaError_t in driver_types.h for the number",
        code="cuda",
    )


def raw_stream(index: int) -> Callable[[int], int]:
    """Give the function that gives the current stream of a device as a number.

    Args:
        index: Ordinal of the device; -1 for the host, whose stream is 0.
    """
    if index < 0:
        return _no_stream
    given: Callable[[int], int] = torch._C._cuda_getCurrentRawStream  # noqa: SLF001 - none public
    return given


def _no_stream(index: int) -> int:
    del index
    return 0
