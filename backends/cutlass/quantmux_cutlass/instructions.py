"""Which instructions came out of a compilation: the proof that can be had without the GPU.

A kernel of CUTLASS that is compiled for the wrong target compiles, launches, returns success and
computes nothing. Whether the matrix instruction it is for stands in its machine code is therefore
looked at, and not inferred from a compiler that was content.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantmux.errors import BuildError

if TYPE_CHECKING:
    from quantmux.registry.protocol import CompiledCode

_TOOL: Final = "nvdisasm"
_NAME: Final = re.compile(
    r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", re.MULTILINE
)
_SECONDS: Final = 120.0


def find_disassembler() -> Path | None:
    """Give nvdisasm: of CUDA_HOME or CUDA_PATH, of PATH, or of Triton's wheel; None without one."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    candidates = [Path(home) / "bin" / _TOOL for home in homes]
    on_path = shutil.which(_TOOL)
    candidates += [Path(on_path)] if on_path else []
    triton = find_spec("triton")
    if triton is not None and triton.origin is not None:
        candidates.append(Path(triton.origin).parent / "backends" / "nvidia" / "bin" / _TOOL)
    return next((path for path in candidates if os.access(path, os.X_OK)), None)


def disassembled(code: CompiledCode) -> str | None:
    """Give machine code as text, one instruction a line in the order of addresses.

    Returns:
        The text; None when no disassembler is on this machine.

    Raises:
        BuildError: There is one, and it cannot read the code (code ``compile``).
    """
    tool = find_disassembler()
    if tool is None:
        return None
    with tempfile.TemporaryDirectory(prefix="quantmux-") as folder:
        file = Path(folder) / "code.cubin"
        file.write_bytes(code.code)
        try:
            done = subprocess.run(
                [str(tool), "-c", str(file)],
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _unreadable(code, tool, [str(error)]) from error
    if done.returncode:
        raise _unreadable(code, tool, done.stderr.splitlines()[-3:])
    return done.stdout


def instructions(text: str) -> list[str]:
    """Give the names of the instructions of a disassembly in its order: ``UTCOMMA.4X``."""
    return _NAME.findall(text)


def require_instruction(code: CompiledCode, pattern: str) -> CompiledCode:
    """Give the code back if it holds an instruction; where none can be looked for, as it is.

    Args:
        code: Machine code.
        pattern: Regular expression of the whole name.

    Raises:
        BuildError: It holds none such (code ``compile``).
    """
    text = disassembled(code)
    if text is None:
        return code
    found = Counter(instructions(text))
    if any(re.fullmatch(pattern, name) for name in found):
        return code
    products = sorted(name for name in found if "MMA" in name)
    raise BuildError(
        f"{code.name} for {code.target} does not hold the instruction it is for",
        facts={
            "need": pattern,
            "found": " ".join(products) or "no matrix instruction at all",
            "instructions": sum(found.values()),
        },
        hint="the headers switched the kernel's body off for this target: use others",
        code="compile",
    )


def _unreadable(code: CompiledCode, tool: Path, lines: list[str]) -> BuildError:
    return BuildError(
        f"{tool.name} cannot read {code.name} for {code.target}",
        facts=lines,
        hint="use the nvdisasm of the CUDA toolkit that compiled it",
        code="compile",
    )
