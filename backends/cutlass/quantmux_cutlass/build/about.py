"""What a library says of itself, and whether that is what was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantmux_cutlass.build.keys import Key
    from quantmux_cutlass.units import Unit


def read_about(text: str) -> dict[str, str]:
    """Read ``name=…;targets=…;cutlass=…;digest=…``; what is no pair is left out."""
    pairs = (part.partition("=") for part in text.split(";"))
    return {name.strip(): value.strip() for name, sign, value in pairs if sign}


def about_problems(about: Mapping[str, str], unit: Unit, target: str, key: Key) -> list[str]:
    """Give what a library says otherwise than asked, one fact a line.

    Args:
        about: What it says.
        unit: What it should be made of.
        target: What it should be compiled for.
        key: Its digests; without a key of the compilers the source digest alone is compared.
    """
    facts = [
        f"{field}: needs {need}, found {about.get(field, 'nothing')}"
        for field, need in (("name", unit.name), ("targets", target))
        if about.get(field) != need
    ]
    source, _, build = about.get("digest", "").partition(".")
    if source != key.source or (key.build and build != key.build):
        facts.append(
            f"digest: needs {_short(key.source, key.build)}, found {_short(source, build)}"
        )
    return facts


def _short(source: str, build: str) -> str:
    return f"{source[:12] or 'nothing'}.{build[:12] or '*'}"
