"""What FlashInfer compiles for: one folder of modules for all GPUs that a process sees.

It names the folder after them (``90a``, ``89_90a``) and puts code for each into every module. We
write the same as a target, with a plus sign: ``90a``, ``89+90a``. Text only: the worker uses it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from packaging.version import InvalidVersion, Version

if TYPE_CHECKING:
    from collections.abc import Iterable

VARIABLE: Final = "FLASHINFER_CUDA_ARCH_LIST"
"""The user's way to name what is compiled for; else it is the GPUs that a process sees."""

_FAMILY_NVCC: Final = Version("12.9")
_PART: Final = re.compile(r"(\d+)\.(\d[a-z]?)")


def part_of(sm: int, nvcc_version: str) -> str:
    """Give what FlashInfer compiles for a GPU: 90 → ``90a``, 120 → ``120f``.

    Args:
        sm: Compute capability as a number.
        nvcc_version: Version of the compiler: before 12.9 there are no targets of a family.
    """
    if sm < 90:
        return str(sm)
    if sm == 120 and _at_least(nvcc_version, _FAMILY_NVCC):
        return "120f"
    return f"{sm}a"


def numbers_of(target: str) -> tuple[int, ...]:
    """Give the compute capabilities in a target, as numbers: ``89+90a`` → 89, 90."""
    return tuple(int(part.rstrip("af")) for part in target.split("+") if part)


def folder_of(target: str) -> str:
    """Give the name of FlashInfer's folder for a target: ``89+90a`` → ``89_90a``."""
    return target.replace("+", "_")


def list_of(target: str) -> str:
    """Give the target as ``FLASHINFER_CUDA_ARCH_LIST`` spells it: ``89+90a`` → ``8.9 9.0a``."""
    parts = [re.fullmatch(r"(\d+)(\d[a-z]?)", part) for part in target.split("+")]
    return " ".join(f"{part[1]}.{part[2]}" for part in parts if part is not None)


def read_list(text: str, nvcc_version: str) -> str:
    """Read ``8.9 9.0`` as FlashInfer does: suffixes that are not written are its own.

    What it could not read is left out, so that no module is found for it.
    """
    found = [_PART.fullmatch(word) for word in text.split(" ")]
    parts = [
        f"{part[1]}{part[2]}"
        if part[2][-1].isalpha()
        else part_of(int(part[1]) * 10 + int(part[2]), nvcc_version)
        for part in found
        if part is not None
    ]
    return joined(parts)


def joined(parts: Iterable[str]) -> str:
    """Put parts together in FlashInfer's order: by major number, then by text."""
    return "+".join(sorted(set(parts), key=_order))


def _order(part: str) -> tuple[int, str]:
    digits = re.match(r"\d+", part)
    length = len(digits[0]) - 1 if digits else 0
    return int(part[:length] or 0), part[length:]


def _at_least(text: str, version: Version) -> bool:
    try:
        return Version(text) >= version
    except InvalidVersion:
        return False
