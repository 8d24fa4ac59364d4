"""Launches by the compiled kernel itself, so that a kernel here costs the host what a C++ op does.

Triton's own launch works out for every argument anew what code it needs: more than 10 µs. What is
compared with a C++ operator of a library should not pay them.
"""

from __future__ import annotations

from typing import Any


class Launch:
    """One Triton function with fixed compile-time arguments.

    Args:
        function: Decorated; its runtime arguments come first.
        constants: Its compile-time arguments, in the order of its parameters.
        num_warps: Warps of a program.
    """

    def __init__(self, function: Any, constants: dict[str, Any], num_warps: int) -> None:
        self._function = function
        self._constants = constants
        # said, because releases of Triton differ in it; CUDA's compiler fuses, too
        self._options = {"num_warps": num_warps, "enable_fp_fusion": True}
        self._compiled: Any = None

    def __call__(self, grid: tuple[int, int, int], *args: Any) -> None:
        """Launch; tensors need addresses that are multiples of 16 bytes, as new ones have.

        Args:
            grid: Programs along each axis, at least 1.
            args: The runtime arguments in order: tensors of the same dtypes in every call, and
                the same numbers, since Triton may have compiled what divides them.
        """
        if self._compiled is not None:
            self._compiled[grid](*args, *self._constants.values())
            return
        # None in Triton's interpreter, which compiles nothing
        self._compiled = self._function[grid](*args, **self._constants, **self._options)
