"""Facts about the installed torch, read from its files: it is never imported for them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from typing import Final

_FIELD: Final = re.compile(r"^(__version__|cuda|hip)\b[^=]*=\s*['\"]([^'\"]+)['\"]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """What the installed torch says of itself.

    Attributes:
        version: Its version, with the local part (``2.13.0+cpu``) where it has one.
        cuda: CUDA version it was built for, such as ``13.0``; None for a build without CUDA.
        hip: HIP version it was built for, or None.
    """

    version: str
    cuda: str | None = None
    hip: str | None = None

    @property
    def cuda_version(self) -> tuple[int, ...]:
        """The CUDA version as numbers; empty without CUDA."""
        return tuple(int(part) for part in self.cuda.split(".")) if self.cuda else ()


@lru_cache(maxsize=1)
def installed_torch() -> TorchBuild | None:
    """Give the facts about the installed torch, or None when there is none."""
    try:
        distribution = metadata.distribution("torch")
    except metadata.PackageNotFoundError:
        return None
    return read_build(distribution.version, _version_file(distribution))


def read_build(version: str, text: str) -> TorchBuild:
    """Give the facts that torch's ``version.py`` states, falling back on the package's version."""
    fields = dict(_FIELD.findall(text))
    return TorchBuild(fields.get("__version__", version), fields.get("cuda"), fields.get("hip"))


def _version_file(distribution: metadata.Distribution) -> str:
    try:
        path = distribution.locate_file("torch/version.py")
        with open(str(path), encoding="utf-8") as file:  # noqa: PTH123  (a SimplePath is no Path)
            return file.read()
    except OSError:
        return ""
