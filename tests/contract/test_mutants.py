"""The suite passes what is right and fails what is not, each by the check that is there for it."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

MUTANTS_FOLDER = Path(__file__).parent / "mutants"
if str(MUTANTS_FOLDER) not in sys.path:
    sys.path.insert(0, str(MUTANTS_FOLDER))

import mutant_hunt  # noqa: E402
from quantmux_mutants.roster import MUTANTS, TWINS, Mutant, Twin  # noqa: E402

from quantmux.testing.cell import Verdict  # noqa: E402

# What the CPU cannot answer, or the twins do not offer.
NOT_ANSWERED_HERE = {"variants", "launches", "graph", "host_sync", "compiles"}
LINEAR_ONLY = {"prepare", "strides"}
REFUSE_ONLY = {"bounds"}


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name)
def test_the_suite_passes_a_right_kernel_in_every_cell(twin: Twin):
    found = mutant_hunt.outcomes(twin)
    wrong = [f"{c.id}: {o.reason}" for c, o in found if o.verdict is Verdict.FAILS]
    assert not wrong
    agreed = Counter(c.check for c, o in found if o.verdict is Verdict.AGREES)
    assert agreed["numbers"] > 40
    asked = {cell.check for cell, _ in found} - NOT_ANSWERED_HERE
    assert asked - set(agreed) <= REFUSE_ONLY
    if twin.op == "linear":
        assert asked >= LINEAR_ONLY


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_the_suite_kills_the_mutant(mutant: Mutant):
    found = mutant_hunt.kill(mutant)
    assert found is not None, f"{mutant.check} let pass: {mutant.fault}"
    assert found.reason


def test_mutants_are_told_apart_by_id():
    ids = [mutant.id for mutant in MUTANTS]
    assert len(ids) == len(set(ids))
    assert {mutant.twin for mutant in MUTANTS} == {twin.name for twin in TWINS}


def test_the_page_names_the_cell_that_killed_each_mutant():
    now, was = mutant_hunt.page(), mutant_hunt.PAGE.read_text(encoding="utf-8")
    assert mutant_hunt.without_numbers(was) == mutant_hunt.without_numbers(now), (
        "docs/testing-mutants.md is behind the suite: "
        "run python tests/contract/mutants/mutant_hunt.py --write and look at what changed"
    )
