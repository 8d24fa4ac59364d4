"""Cell and Outcome: one kernel asked one question, and the answer. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantmux.ops.spec import Case


class Verdict(StrEnum):
    """What became of a cell."""

    AGREES = "agrees"
    """The kernel ran, and what it gave is the reference's answer."""
    REFUSES = "refuses"
    """It does not serve the case, and selection says so with the code that is due."""
    NOT_HERE = "not_here"
    """It cannot run on this machine: wrong device, missing package or tool."""
    FAILS = "fails"
    """Anything else: wrong numbers, untouched memory, an exception, a missing refusal."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One kernel asked one question.

    Attributes:
        kernel: Kernel id.
        check: Name of the check, e.g. ``numbers``, ``bounds``, ``graph``.
        label: What tells this cell from the others of its check; short, unique, stable between
            runs: it goes into test ids and result files.
        case: The case of the op, where the check takes one.
        detail: What the check needs besides, JSON-ready.
    """

    kernel: str
    check: str
    label: str
    case: Case | None = None
    detail: tuple[tuple[str, Any], ...] = ()

    @property
    def id(self) -> str:
        """``backend/stem::check[label]``."""
        return f"{self.kernel}::{self.check}[{self.label}]"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer.

    Attributes:
        verdict: What became of the cell.
        reason: One line: the disagreement, the rejection, the exception; "" for a plain agreement.
        code: The rejection's code, for ``refuses`` and ``not_here``.
        error: Relative error of the result where numbers were compared.
        seconds: Time it took.
    """

    verdict: Verdict
    reason: str = ""
    code: str = ""
    error: float | None = None
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Give the outcome as JSON-ready data."""
        return {**asdict(self), "verdict": str(self.verdict)}
