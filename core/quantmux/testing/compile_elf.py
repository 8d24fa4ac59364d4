"""What machine code says of itself, and whether it would run on an architecture."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from quantmux.capability.arch import Arch
    from quantmux.registry.protocol import CompiledCode

_MAGIC: Final = b"\x7fELF"
_MACHINE_CUDA: Final = 190
_MACHINE_AMD: Final = 224
_HEADER: Final = 64
_AMD_PROCESSORS: Final = {
    0x3F: "gfx90a",
    0x40: "gfx940",
    0x41: "gfx1100",
    0x48: "gfx1200",
    0x4C: "gfx942",
    0x4E: "gfx1201",
    0x4F: "gfx950",
}
"""Numbers of the ELF header's flags, as LLVM's AMDGPU guide lists them."""
_ABI_8: Final = 8
_TARGET: Final = re.compile(r"^sm_(\d{2,3})([af]?)$")


def code_problem(code: CompiledCode, arch: Arch) -> str | None:
    """Say why an object is no machine code for ``arch``, None when it is.

    Looked at are its ELF header, which names the architecture that the assembler worked for, and
    the target it is said to have: ``sm_90a`` runs on 9.0 only, ``sm_100f`` on 10.0 and 10.3,
    ``sm_80`` on every later minor of 8; code for an AMD processor runs on that one only.
    """
    if arch.vendor == "amd":
        return _amd_problem(code, arch)
    named = _TARGET.match(code.target)
    if named is None:
        return f'{code.name}: its target "{code.target}" is not of the form sm_90a'
    if not code.code:
        return f"{code.name}: no machine code at all"
    found = cubin_sm(code.code)
    if found is None:
        return f"{code.name}: {len(code.code)} bytes that are no CUDA machine code"
    sm = int(named[1])
    if found != sm:
        return f"{code.name}: said to be for {code.target}, assembled for sm_{found}"
    if arch.sm is None or not _runs(sm, named[2], arch.sm):
        return f"{code.name}: code for {code.target} does not run on {arch}"
    return None


def _amd_problem(code: CompiledCode, arch: Arch) -> str | None:
    if not code.code:
        return f"{code.name}: no machine code at all"
    found = hsaco_processor(code.code)
    if found is None:
        return f"{code.name}: {len(code.code)} bytes that are no machine code for a known AMD GPU"
    if found != code.target:
        return f"{code.name}: said to be for {code.target}, assembled for {found}"
    if found != arch.name:
        return f"{code.name}: code for {code.target} does not run on {arch}"
    return None


def hsaco_processor(code: bytes) -> str | None:
    """Give the processor in the ELF header of an AMD code object, None for anything else."""
    if len(code) < _HEADER or not code.startswith(_MAGIC):
        return None
    if int.from_bytes(code[18:20], "little") != _MACHINE_AMD:
        return None
    return _AMD_PROCESSORS.get(code[48])


def cubin_sm(code: bytes) -> int | None:
    """Give the sm number in the ELF header of a cubin, None for anything else."""
    if len(code) < _HEADER or not code.startswith(_MAGIC):
        return None
    if int.from_bytes(code[18:20], "little") != _MACHINE_CUDA:
        return None
    flags = int.from_bytes(code[48:52], "little")
    # the number moved up a byte when it no longer fitted beside the older flags (ABI version 8)
    return flags >> 8 & 0xFF if code[8] >= _ABI_8 else flags & 0xFF


def _runs(built: int, suffix: str, on: int) -> bool:
    if suffix == "a":
        return on == built
    return on // 10 == built // 10 and on >= built
