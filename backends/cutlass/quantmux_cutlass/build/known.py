"""What is known of one library on this machine before anything is compiled or loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantmux_cutlass.build.entries import Entry, find_entry, folder_name
from quantmux_cutlass.build.keys import Key, key_of
from quantmux_cutlass.build.settings import cache_folder, prebuilt_folder
from quantmux_cutlass.build.toolchain import Toolchain, can_build, find_toolchain

if TYPE_CHECKING:
    from pathlib import Path

    from quantmux.capability.rejection import Rejection
    from quantmux_cutlass.units import Unit


@dataclass(frozen=True, slots=True)
class Known:
    """One library: where it would be, and what could make it.

    Attributes:
        unit: What it is compiled from.
        target: What for.
        cache: The folder of libraries.
        key: Its digests; without that of the compilers where this machine cannot compile it. Then
            a library of the same sources serves, whoever compiled it.
        maker: What this machine would compile it with, None where it cannot.
        rejection: Why it cannot.
    """

    unit: Unit
    target: str
    cache: Path
    key: Key
    maker: Toolchain | None
    rejection: Rejection | None

    @property
    def name(self) -> str:
        """Name of its folder."""
        return folder_name(self.unit, self.target, self.key)

    def cached(self) -> Entry | None:
        """Give it from the cache; not yet looked at whether it is whole."""
        return find_entry(self.cache, self.unit, self.target, self.key)

    def prebuilt(self) -> Entry | None:
        """Give it from the folder that option ``prebuilt`` names; not yet looked at either."""
        folder = prebuilt_folder()
        if folder is None:
            return None
        return find_entry(folder, self.unit, self.target, self.by_source)

    @property
    def by_source(self) -> Key:
        """The key by which prebuilt libraries are found."""
        return Key(self.key.source, "")


def know(unit: Unit, target: str) -> Known:
    """Find out what is known of a library; quick.

    Raises:
        BuildError: A source cannot be read (code ``sources``).
    """
    toolchain = find_toolchain()
    rejection = can_build(unit, target, toolchain)
    maker = toolchain if isinstance(toolchain, Toolchain) and rejection is None else None
    return Known(unit, target, cache_folder(), key_of(unit, target, maker), maker, rejection)
