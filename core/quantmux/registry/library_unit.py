"""LibraryUnit: one library that a backend compiles, as ``quantmux build BACKEND`` sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from quantmux.capability.arch import ArchSet
from quantmux.errors import QuantmuxError

if TYPE_CHECKING:
    from pathlib import Path
    from threading import Event

    from quantmux.capability.arch import Arch

    Make = Callable[["BuildOrder"], "LibraryMade"]

STATES: Final = ("built", "prebuilt", "building", "failed", "missing", "impossible")
"""What may be said of a library: it is here, somebody else made it, it is being compiled, its last
compilation failed, it can be compiled, or it cannot be here."""

THERE: Final = ("built", "prebuilt")
"""States in which a kernel can use it."""


@dataclass(frozen=True, slots=True)
class BuildOrder:
    """How a library shall be compiled.

    Attributes:
        force: Compile it though it is there, or though the last try failed.
        into: Put a copy into this folder, which can be shipped to hosts without a compiler.
        jobs: At most so many compilers at once; None is what cores and memory allow. `make` itself
            waits for its turn.
        stop: Set when nobody waits any longer: end the compiler and raise.
        tell: Told in a word how far it is, from the thread that compiles.
    """

    stop: Event
    force: bool = False
    into: Path | None = None
    jobs: int | None = None
    tell: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True)
class LibraryMade:
    """What came of it.

    Attributes:
        path: The file.
        seconds: Wall seconds that the compiler took; 0 when it was there already.
        memory_mib: Memory that the compiler's largest process held, MiB; 0 when not known.
        bytes: Size of the file.
        was_there: Nothing was compiled.
        cpu_seconds: CPU seconds of the compiler; 0 when not known.
    """

    path: Path
    seconds: float = 0.0
    memory_mib: int = 0
    bytes: int = 0
    was_there: bool = False
    cpu_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class LibraryUnit:
    """One library for one target, and how to make it.

    Attributes:
        name: Its name, unique in the backend together with ``target``.
        target: What it is compiled for, as in `quantmux.ArchSet`: ``90a``, ``100f``, ``gfx942``;
            with plus signs one library for several: ``90a+100f``.
        kernels: Ids of the kernels that use it.
        make: Compiles it; called from one thread for each library, all at once. It waits until
            there is room, and raises a `quantmux.BuildError` when it cannot be made.
        state: One of `STATES`, when the hook was called.
        reason: Why it is ``failed`` or ``impossible``, one line; else "".
        hint: What to install or to do then.
        seconds: About how long a compilation takes.
        memory_gib: About how much memory it takes, GiB.
    """

    name: str
    target: str
    kernels: tuple[str, ...]
    make: Make = field(compare=False, repr=False)
    state: str = "missing"
    reason: str = ""
    hint: str = ""
    seconds: float = 0.0
    memory_gib: float = 1.0

    @property
    def targets(self) -> tuple[str, ...]:
        """The parts of ``target``."""
        return tuple(self.target.split("+"))

    @property
    def is_there(self) -> bool:
        """Tell whether a kernel can use it."""
        return self.state in THERE

    def runs_on(self, arch: Arch) -> bool:
        """Tell whether one of its parts runs on an architecture."""
        return any(arch in ArchSet(spec=part) for part in self.targets)


def library_problem(given: Any, backend: str) -> str | None:
    """Say what is wrong with something that a plugin gave as a library, None when nothing is."""
    if not isinstance(given, LibraryUnit):
        return f"returned {type(given).__name__} from quantmux_libraries, not LibraryUnit"
    texts: tuple[Any, ...] = (given.name, given.target)
    if not all(isinstance(text, str) for text in texts):
        return "gave a LibraryUnit whose name or target is not a str"
    try:
        for part in given.targets:
            ArchSet(spec=part)
    except QuantmuxError:
        return f'gave library {given.name} the target "{given.target}", which is none'
    if given.state not in STATES:
        return f"gave library {given.name} the state {given.state!r}, not {' '.join(STATES)}"
    foreign = [k for k in given.kernels if k.partition("/")[0] != backend]
    if foreign:
        return f"gave library {given.name} kernels of another backend: {', '.join(foreign)}"
    return None
