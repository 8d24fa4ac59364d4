"""Architectures and sets of them: exact, family, portable. Never a bare ``>=``.

========== =====================================================================
``90a``    exactly compute capability 9.0 (arch-specific instructions do not run elsewhere)
``100f``   the family: same major, minor at least the build's (10.0 and 10.3, not 12.0)
``80+``    portable code: that compute capability or any later one
``90``     exactly 9.0, no arch-specific instructions (kept apart from ``90a`` for readers only)
``gfx942`` an AMD target, exactly
``cpu``    the host
``any``    everything, devices of unknown vendors too
========== =====================================================================
"""

from __future__ import annotations

import re
from typing import Final, Literal

from pydantic import model_validator

from quantmux.config._base import Frozen
from quantmux.errors import ConfigError

_CUDA: Final = re.compile(r"^(\d{2,3})(a|f|\+)?$")
_AMD: Final = re.compile(r"^gfx[0-9a-f]{3,4}$")

Vendor = Literal["nvidia", "amd", "cpu", "other"]


class Arch(Frozen):
    """The architecture of one device: ``cpu``, an sm number such as ``90`` or ``103``, or gfx."""

    vendor: Vendor
    name: str

    @model_validator(mode="after")
    def _named(self) -> Arch:
        if self.vendor == "nvidia" and not re.fullmatch(r"[1-9]\d{1,2}", self.name):
            raise ConfigError(
                f'"{self.name}" is not a compute capability',
                facts=["major · 10 + minor: 90 for 9.0, 103 for 10.3"],
                code="device",
            )
        return self

    @property
    def sm(self) -> int | None:
        """Compute capability as major · 10 + minor, or None off NVIDIA."""
        return int(self.name) if self.vendor == "nvidia" else None

    @classmethod
    def parse(cls, text: str) -> Arch:
        """Read ``90``, ``9.0``, ``sm_90``, ``gfx942`` or ``cpu``."""
        name = text.lower().removeprefix("sm_").removeprefix("sm")
        if name == "cpu":
            return cls(vendor="cpu", name="cpu")
        if _AMD.match(name):
            return cls(vendor="amd", name=name)
        if re.fullmatch(r"\d+\.\d", name):
            name = name.replace(".", "")
        if name.isdigit() and len(name) in (2, 3):
            return cls(vendor="nvidia", name=name)
        raise ConfigError(
            f'"{text}" is not an architecture',
            facts=["known forms: 90 · 9.0 · sm_90 · gfx942 · cpu"],
            code="device",
        )

    def __str__(self) -> str:
        return f"sm{self.name}" if self.vendor == "nvidia" else self.name


class ArchSet(Frozen):
    """A set of architectures that one build of a kernel runs on."""

    spec: str

    @model_validator(mode="after")
    def _known(self) -> ArchSet:
        if self.spec in ("any", "cpu") or _AMD.match(self.spec) or _CUDA.match(self.spec):
            return self
        raise ConfigError(
            f'"{self.spec}" is not an architecture set',
            facts=["forms: 90a exact · 100f family · 80+ portable · gfx942 · cpu · any"],
        )

    def __contains__(self, arch: Arch) -> bool:
        if self.spec == "any":
            return True
        if arch.vendor != "nvidia" or arch.sm is None:
            return self.spec == arch.name
        match = _CUDA.match(self.spec)
        if match is None:
            return False
        sm, suffix = int(match[1]), match[2]
        if suffix == "+":
            return arch.sm >= sm
        if suffix == "f":
            return arch.sm // 10 == sm // 10 and arch.sm >= sm
        return arch.sm == sm

    def __str__(self) -> str:
        return self.spec


def arch_sets(*specs: str) -> tuple[ArchSet, ...]:
    """Build several sets at once: ``arch_sets("90a", "100f")``."""
    return tuple(ArchSet(spec=spec) for spec in specs)
