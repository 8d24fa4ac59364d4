"""What of the matrix is worth a line: rows that answer alike share one, others are left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from quantmux.capability.rejection import RejectionCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.capability.matrix import MatrixRow

_NOT_MADE_FOR: Final = frozenset(
    (
        RejectionCode.SCHEME,
        RejectionCode.OPERAND,
        RejectionCode.LAYOUT,
        RejectionCode.SCALE_ROUNDING,
    )
)


@dataclass(frozen=True, slots=True)
class FoldedRow:
    """One kernel asked for one scheme, or for those layouts of one operand that it answers alike.

    Attributes:
        label: Scheme, or operand and layout, or operand and number of layouts.
        schemes: The schemes of the rows that were folded into it.
        answers: Its row per device, in the order of the devices.
    """

    label: str
    schemes: tuple[str, ...]
    answers: tuple[MatrixRow, ...]


def is_of_interest(row: MatrixRow) -> bool:
    """Tell whether the kernel was made for the scheme at all."""
    return row.eligible or not any(r.code in _NOT_MADE_FOR for r in row.rejections)


def fold(devices: Sequence[Sequence[MatrixRow]]) -> tuple[FoldedRow, ...]:
    """Put the layouts of one operand that a kernel answers alike, on every device, on one row.

    Args:
        devices: The rows of each device: same kernels, same schemes, same order.
    """
    groups: dict[tuple[Any, ...], list[tuple[MatrixRow, ...]]] = {}
    for answers in zip(*devices, strict=True):
        first = answers[0]
        operand = first.scheme.partition(" ")[0]
        said = tuple(
            (r.tier, r.experimental, r.eligible, r.rejections, r.evidence) for r in answers
        )
        groups.setdefault((first.op, first.id, operand, said), []).append(answers)
    folded: list[FoldedRow] = []
    for (_, _, operand, _), same in groups.items():
        schemes = tuple(answers[0].scheme for answers in same)
        label = schemes[0] if len(same) == 1 else f"{operand} ({len(same)} layouts)"
        folded.append(FoldedRow(label, schemes, same[0]))
    return tuple(folded)
