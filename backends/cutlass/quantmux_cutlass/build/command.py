"""The command line that makes a library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from quantmux_cutlass.build.toolchain import Toolchain
    from quantmux_cutlass.units import Unit

_PACKAGE: Final = Path(__file__).resolve().parent.parent

_FLAGS: Final = (
    "-std=c++17",
    "-O3",
    "-DNDEBUG",
    "-w",  # CUTLASS's headers warn by the hundred, and of a log only the end is kept
    "--expt-relaxed-constexpr",
    "-shared",
    # hidden symbols and a runtime of its own: nothing of torch's, nothing for torch to find
    "-cudart=static",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-fno-strict-aliasing",
    "-Xlinker=--exclude-libs,ALL",
    # or CUTLASS leaves out the instructions of dependent launches
    "-DCUTLASS_ENABLE_GDC_FOR_SM90=1",
    "-DCUTLASS_ENABLE_GDC_FOR_SM100=1",
)


def flags() -> tuple[str, ...]:
    """Give the flags that every library is compiled with."""
    return _FLAGS


def gencode(target: str) -> list[str]:
    """Give the flags for a target: one set of machine code for each of its parts, no PTX."""
    parts = target.split("+")
    codes = [f"-gencode=arch=compute_{part},code=sm_{part}" for part in parts]
    # nvcc compiles the parts side by side; what comes out is the same
    return codes if len(parts) == 1 else [*codes, f"--threads={len(parts)}"]


def definitions(unit: Unit, target: str, digest: str) -> list[str]:
    """Give the macros of a unit and what its library says of itself."""
    own = {"QM_NAME": unit.name, "QM_TARGETS": target, "QM_DIGEST": digest}
    return [
        *(f'-D{name}="{value}"' for name, value in own.items()),
        *(f"-D{name}={value}" for name, value in unit.macros),
    ]


def include_dirs(unit: Unit, toolchain: Toolchain) -> list[Path]:
    """Give the folders of headers: ours, and CUTLASS's where the unit says that it needs them."""
    folders = [_PACKAGE / "csrc"]
    if unit.cutlass and toolchain.headers is not None:
        folders.append(toolchain.headers)
    return folders


def command(
    unit: Unit, target: str, toolchain: Toolchain, *, digest: str, work: Path, out: Path
) -> list[str]:
    """Give the command that compiles a unit into a library.

    Args:
        unit: What is compiled.
        target: One of its targets.
        toolchain: What it is compiled with.
        digest: What the library shall name as its digest.
        work: Folder for what nvcc makes on the way; the machine code stays there as
            ``<stem>.compute_90a.cubin``.
        out: The library.
    """
    return [
        str(toolchain.nvcc),
        *flags(),
        *gencode(target),
        *definitions(unit, target, digest),
        *(f"-I{folder}" for folder in include_dirs(unit, toolchain)),
        "--keep",
        f"--keep-dir={work}",
        "-o",
        str(out),
        str(_PACKAGE / unit.source),
    ]
