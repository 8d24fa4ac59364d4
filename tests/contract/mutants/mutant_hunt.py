"""Runs the suite over the mutants, and writes docs/testing-mutants.md.

python tests/contract/mutants/mutant_hunt.py            # is the page what the suite says today?
python tests/contract/mutants/mutant_hunt.py --write    # make it so
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[2] / "docs" / "testing-mutants.md"
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

from quantmux_mutants import plugin  # noqa: E402  (found through the line above)
from quantmux_mutants.roster import MUTANTS, TWINS, Mutant, Twin  # noqa: E402

from quantmux.capability.profiles import CPU  # noqa: E402
from quantmux.registry.manager import Registry  # noqa: E402
from quantmux.testing.cell import Cell, Outcome, Verdict  # noqa: E402
from quantmux.testing.engine import cells, run_cell  # noqa: E402


def registry_of(*ids: str) -> Registry:
    """Give a registry of these kernels alone: those of one weight layout share prepared weights."""
    return Registry.of({"mutants": plugin.Few(frozenset(ids))})


RIGHT = registry_of(*(f"mutants/{twin.name}" for twin in TWINS))

_HEAD = """\
# The suite is proved by mutants

Written by `python tests/contract/mutants/mutant_hunt.py --write`; `tests/contract/test_mutants.py`
fails when it no longer says what the suite does.

A suite that passes proves nothing of itself: it may ask too little. So `tests/contract/mutants`
holds {twins} kernels that are right, written on their own and not over the reference, and
{mutants} copies of them with one fault each. The suite passes every right one in all of its
cells, and fails every mutant by the check that is there for its fault. The cell named is the
first of that check that fails; a mutant may fail many more.

Numbers are those of a CPU; `out=` is filled with 0xFF and has guarded zones around it.
"""


@dataclass(frozen=True)
class Kill:
    """The first cell that a kernel fails.

    Attributes:
        cell: It.
        reason: What the suite says.
    """

    cell: Cell
    reason: str


@cache
def kill(mutant: Mutant) -> Kill | None:
    """Run the check that is there for the fault until a cell fails."""
    registry = registry_of(f"mutants/{mutant.twin}", mutant.id)
    for cell in cells(registry, CPU, kernels=(mutant.id,), checks=(mutant.check,)):
        outcome = run_cell(cell, registry, CPU)
        if outcome.verdict is Verdict.FAILS:
            return Kill(cell, outcome.reason)
    return None


def outcomes(twin: Twin) -> list[tuple[Cell, Outcome]]:
    """Run the whole suite over a right kernel."""
    found = cells(RIGHT, CPU, kernels=(f"mutants/{twin.name}",))
    return [(cell, run_cell(cell, RIGHT, CPU)) for cell in found]


def page() -> str:
    """Give the page."""
    lines = [_HEAD.format(twins=len(TWINS), mutants=len(MUTANTS))]
    for twin in TWINS:
        lines += [
            f"## `{twin.name}`: {twin.op}",
            "",
            "| mutant | fault | killed by | because |",
            "|---|---|---|---|",
        ]
        lines += [_line(mutant) for mutant in MUTANTS if mutant.twin == twin.name]
        lines.append("")
    lines += ["## By check", "", "| check | mutants |", "|---|---|"]
    counts = Counter(mutant.check for mutant in MUTANTS)
    lines += [f"| `{check}` | {count} |" for check, count in counts.most_common()]
    return "\n".join(lines) + "\n"


def without_numbers(text: str) -> str:
    """Give a page as it is compared: the last digits of a reason differ between processors."""
    return re.sub(r"-?\d+(\.\d+)?(e[-+]?\d+)?", "#", text)


def _line(mutant: Mutant) -> str:
    found = kill(mutant)
    if found is None:
        return f"| `{mutant.name}` | {mutant.fault} | **nothing** | |"
    where = f"`{found.cell.check}` `{found.cell.label}`"
    reason = found.reason.replace("](", "]\\(")  # an operand's name, no link
    cells_ = (f"`{mutant.name}`", mutant.fault, where, reason)
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells_) + " |"


def _main() -> int:
    now = page()
    if "--write" in sys.argv:
        PAGE.write_text(now, encoding="utf-8")
        return 0
    was = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    return int(without_numbers(was) != without_numbers(now))


if __name__ == "__main__":
    sys.exit(_main())
