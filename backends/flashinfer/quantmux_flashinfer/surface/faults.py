"""Faults of releases that no signature and no decorator shows. Each one is known to be mended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Fault:
    """A call that a release takes and gets wrong.

    Attributes:
        function: Its name.
        backend: The value of ``backend`` that is concerned.
        versions: The releases, in packaging's syntax.
        archs: Architecture sets on which it was seen.
        what: What goes wrong, and where it was reported.
    """

    function: str
    backend: str | None
    versions: str
    archs: tuple[str, ...]
    what: str


FAULTS: Final = (
    Fault(
        "bmm_fp8",
        "cublas",
        "<0.7",
        ("100f", "110", "120f"),
        "wrong numbers or a crash on this GPU before 0.7 (flashinfer issues 2337, 3085)",
    ),
)
"""Both issues have one cause: a cuBLAS handle passed as a cuBLASLt handle. 0.7 makes its own."""
