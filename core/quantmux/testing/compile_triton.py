"""A Triton kernel to machine code for a GPU that need not be here."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from quantmux.errors import BuildError
from quantmux.registry.protocol import CompiledCode
from quantmux.testing.compile_log import last_lines

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantmux.capability.arch import Arch


def compile_triton(
    fn: Any,
    signature: Mapping[str, str],
    constexprs: Mapping[str, Any],
    arch: Arch,
    options: Mapping[str, Any] | None = None,
    *,
    divisible_by_16: tuple[str, ...] = (),
) -> CompiledCode:
    """Compile one variant of a ``@triton.jit`` function down to machine code.

    Triton itself chooses between ``sm_90`` and ``sm_90a``, as it does for a launch.

    Args:
        fn: The decorated function.
        signature: Argument → Triton's type, ``"*bf16"``, ``"*fp8e4nv"``, ``"i32"``. Arguments that
            ``constexprs`` gives need no type.
        constexprs: Argument → compile-time value.
        arch: An architecture of NVIDIA's or AMD's.
        options: ``num_warps``, ``num_stages``, ``enable_fp_fusion`` …, as at a launch.
        divisible_by_16: Arguments that a launch would find to be multiples of 16: pointers of
            whole tensors, most row widths. It decides about vector loads.

    Raises:
        BuildError: Triton refuses (code ``compile``), is not here, or only interprets (code
            ``no_compiler``).
    """
    name = str(getattr(fn, "__name__", "kernel"))
    triton = _triton(name)
    names = list(fn.arg_names)
    unknown = sorted({*signature, *constexprs, *divisible_by_16} - set(names))
    if unknown:
        raise BuildError(
            f"Triton kernel {name} has no argument {unknown[0]}",
            facts={"its arguments": " ".join(names)},
            code="compile",
        )
    forgotten = [a for a in names if a not in signature and a not in constexprs]
    if forgotten:
        raise BuildError(
            f"Triton kernel {name}: the type of argument {forgotten[0]} is not given",
            hint=f'add it to signature, e.g. {{"{forgotten[0]}": "i32"}}, or to constexprs',
            code="compile",
        )
    types = {a: "constexpr" if a in constexprs else signature[a] for a in names}
    attributes = {(names.index(a),): [["tt.divisibility", 16]] for a in divisible_by_16}
    target = _target(arch, name)
    source = _source_of(fn)(fn, types, dict(constexprs), attributes)
    try:
        with warnings.catch_warnings():
            # Triton says at every compilation which of its defaults will change one day
            warnings.simplefilter("ignore")
            compiled = triton.compile(source, target=target, options=dict(options or {}))
        code = compiled.asm["cubin" if arch.vendor == "nvidia" else "hsaco"]
        found = _target_in(str(compiled.asm["ptx"])) if arch.vendor == "nvidia" else arch.name
    except Exception as error:
        raise BuildError(
            f"Triton cannot compile {name} for {arch}",
            facts=last_lines(str(error)) or [type(error).__name__],
            hint=f"a kernel that does not compile for {arch} must not claim it",
            code="compile",
        ) from error
    return CompiledCode(name, found, bytes(code), "triton", triton.__version__)


def _triton(name: str) -> Any:
    try:
        import triton
        import triton.compiler
    except ImportError as error:
        raise BuildError(
            f"{name} cannot be compiled: triton is not installed",
            facts=[str(error)],
            hint="pip install triton (Linux only)",
            code="no_compiler",
        ) from error
    if os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y"):
        raise BuildError(
            f"{name} cannot be compiled: TRITON_INTERPRET is set",
            facts=["every @triton.jit function of this process is an interpreted one"],
            hint="compile in a process without that variable: quantmux build",
            code="no_compiler",
        )
    return triton


def _source_of(fn: Any) -> Any:
    """Give Triton's class of source code for a function, which may be written in Gluon."""
    if hasattr(fn, "is_gluon") and fn.is_gluon():
        from triton.experimental.gluon._runtime import GluonASTSource

        return GluonASTSource
    from triton.compiler import ASTSource

    return ASTSource


def _target(arch: Arch, name: str) -> Any:
    from triton.backends.compiler import GPUTarget

    if arch.sm is not None:
        return GPUTarget("cuda", arch.sm, 32)
    if arch.vendor == "amd":
        # a wavefront of the compute cards, gfx9, has 64 lanes, one of gfx10 and later has 32
        return GPUTarget("hip", arch.name, 64 if arch.name.startswith("gfx9") else 32)
    raise BuildError(
        f"{name} cannot be compiled for {arch}: quantmux compiles for NVIDIA's and AMD's GPUs only",
        code="no_compiler",
    )


def _target_in(assembly: str) -> str:
    """Give the target that the assembler was told, ``sm_90a``, from the PTX text."""
    for line in assembly.splitlines():
        if line.startswith(".target"):
            return line.split()[1].rstrip(",")
    return ""
