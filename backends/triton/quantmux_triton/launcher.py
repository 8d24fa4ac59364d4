"""One variant of one Triton function: compiled once, launched many times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from quantmux_triton.interpreter import interpreting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantmux.capability.arch import Arch
    from quantmux.registry.protocol import CompiledCode

TYPE_NAMES: dict[torch.dtype, str] = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.float8_e5m2: "*fp8e5",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
"""Triton's names of pointers to torch's dtypes."""


class Launcher:
    """A ``@triton.jit`` function with its constexprs and options: one compiled variant.

    Every runtime integer of the function must be in its ``do_not_specialize`` list, so that no
    value of it makes another variant; what is known of divisibility is a constexpr or a
    ``tl.multiple_of``.

    Args:
        fn: The decorated function; its runtime arguments come first, in order.
        constexprs: Argument → compile-time value.
        options: ``num_warps``, ``num_stages``, ``enable_fp_fusion``, ``launch_pdl`` …
    """

    def __init__(self, fn: Any, constexprs: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        self.fn = fn
        self.constexprs = dict(constexprs)
        self.options = dict(options)
        self._call = {**self.constexprs, **({} if interpreting() else self.options)}

    def __call__(self, grid: tuple[int, ...], *args: Any) -> None:
        """Launch on the current stream.

        Args:
            grid: Programs per axis, each at least 1.
            args: The runtime arguments in order: tensors, integers, floats.
        """
        self.fn[grid](*args, **self._call)

    def warm(self, *args: Any) -> None:
        """Compile without launching; a tensor may be given as its dtype."""
        if not interpreting():
            self.fn.warmup(*args, grid=(1,), **self._call)

    def compile_for(self, arch: Arch, *args: Any) -> CompiledCode:
        """Give the machine code for a GPU that need not be here; arguments as for `warm`.

        Pointers are taken to be multiples of 16 bytes.

        Raises:
            BuildError: As of `quantmux.testing.compile_triton`.
        """
        from quantmux.testing.compile_triton import compile_triton

        names = [name for name in self.fn.arg_names if name not in self.constexprs]
        kinds = dict(zip(names, (_kind(a) for a in args), strict=True))
        pointers = tuple(name for name, kind in kinds.items() if kind.startswith("*"))
        return compile_triton(
            self.fn, kinds, self.constexprs, arch, self.options, divisible_by_16=pointers
        )


def _kind(arg: Any) -> str:
    if isinstance(arg, torch.Tensor):
        return TYPE_NAMES[arg.dtype]
    if isinstance(arg, torch.dtype):
        return TYPE_NAMES[arg]
    if isinstance(arg, float):
        return "fp32"
    return "i32" if -(1 << 31) <= arg < 1 << 31 else "i64"
