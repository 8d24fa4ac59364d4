"""What a twin and a mutant are, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantmux import Capability


@dataclass(frozen=True)
class Twin:
    """A right kernel.

    Attributes:
        name: Stem of its id.
        op: Its op.
        module: Module that holds it, under its name.
        capability: What it offers.
        sources: Files that its code lies in.
    """

    name: str
    op: str
    module: str
    capability: Capability
    sources: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Mutant:
    """A twin with one fault.

    Attributes:
        twin: Name of the twin.
        name: The id's stem is ``twin.name``.
        fault: What is wrong, one line.
        check: Name of the check that must fail.
        changes: Fields of the capability that differ from the twin's.
        spec: Fields of the spec that differ.
        code: Attribute to load where it is not the name; "" is the twin itself, whose
            declarations are then the fault.
        module: Module that holds it where it is not the op's own.
    """

    twin: str
    name: str
    fault: str
    check: str = "numbers"
    changes: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)
    code: str | None = None
    module: str = ""

    @property
    def id(self) -> str:
        """Id of its kernel."""
        return f"mutants/{self.twin}.{self.name}"
