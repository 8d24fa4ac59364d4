"""Which cells there are, and that nothing a kernel does gets out of run_cell."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernels_under_test import Told

from quantmux.capability.profiles import PROFILES
from quantmux.errors import LaunchError
from quantmux.testing import engine
from quantmux.testing.cell import Verdict
from quantmux.testing.checks import CHECKS


def verdicts(registry, device, **asked):
    return [
        (cell, engine.run_cell(cell, registry, device))
        for cell in engine.cells(registry, device, **asked)
    ]


def test_ids_are_unique_and_the_same_in_every_process(registry, cpu):
    here = [cell.id for cell in engine.cells(registry(), cpu)]
    assert len(here) == len(set(here)) > 500
    program = (
        "from quantmux.capability.detect import resolve_device;"
        "from quantmux.registry.manager import Registry;"
        "from quantmux.testing.engine import cells;"
        "from kernels_under_test import Plugin;"
        "print(*[c.id for c in cells(Registry.of({'told': Plugin()}), resolve_device('cpu'))],"
        "sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    assert done.stdout.splitlines() == here


def test_a_right_kernel_agrees_or_refuses(registry, cpu):
    found = verdicts(registry(), cpu)
    kinds = {outcome.verdict for _, outcome in found}
    assert kinds == {Verdict.AGREES, Verdict.REFUSES, Verdict.NOT_HERE}
    ran = [o for c, o in found if o.verdict is Verdict.AGREES and c.check == "numbers"]
    assert len(ran) > 40
    assert all(o.error == 0.0 for o in ran)


def test_every_number_of_rows_of_the_issue_is_tried(registry, cpu):
    asked = engine.cells(registry(), cpu, checks=("numbers",))
    own = {c.case.m for c in asked if c.case.source == "declared"}
    assert own >= {0, 1, 7, 8, 9, 31, 32, 33, 127, 128, 129}
    assert max(own) > 500


@pytest.mark.parametrize(
    "fault",
    [RuntimeError("boom"), SystemExit(3), MemoryError(), pytest.skip.Exception("no"), KeyError(1)],
)
def test_whatever_a_kernel_raises_is_an_outcome(registry, cpu, fault):
    Told.fault = fault
    for _, outcome in verdicts(registry(), cpu, checks=("repeat", "poisoned_scales")):
        assert outcome.verdict is Verdict.FAILS
        assert type(fault).__name__ in outcome.reason
        assert outcome.code == ("memory" if isinstance(fault, MemoryError) else "raised")


def test_interrupting_is_not_an_outcome(registry, cpu):
    Told.fault = KeyboardInterrupt()
    cell = engine.cells(registry(), cpu, checks=("repeat",))[0]
    with pytest.raises(KeyboardInterrupt):
        engine.run_cell(cell, registry(), cpu)


def test_after_a_lost_context_nothing_is_run(registry, cpu):
    known = registry()
    first, second = engine.cells(known, cpu, checks=("repeat", "poisoned_scales"))[:2]
    Told.fault = LaunchError("lost", context_poisoned=True)
    assert engine.run_cell(first, known, cpu).code == engine.POISONED
    Told.fault = None
    outcome = engine.run_cell(second, known, cpu)
    assert (outcome.verdict, outcome.code) == (Verdict.FAILS, engine.POISONED)
    assert first.id in outcome.reason


def test_a_kernel_that_cannot_run_here_says_why(registry, cpu):
    elsewhere = registry(arch="90a")
    found = verdicts(elsewhere, cpu, checks=("numbers", "repeat"))
    assert [o.code for _, o in found] == ["arch", "arch"]
    assert all(o.verdict is Verdict.NOT_HERE for _, o in found)


def test_a_profile_is_asked_and_not_run_on(registry):
    found = verdicts(registry(arch="90a"), PROFILES["h200"], checks=("numbers",))
    assert [(o.verdict, o.code) for _, o in found] == [(Verdict.NOT_HERE, "unavailable")]


def test_each_profile_is_served_or_refused_by_architecture(registry, cpu):
    found = verdicts(registry(arch=("90a", "100f")), cpu, checks=("bounds",))
    fits = {c.label: o.verdict for c, o in found if c.label.startswith("arch-")}
    assert {label for label, v in fits.items() if v is Verdict.AGREES} == {
        "arch-h100",
        "arch-h200",
        "arch-b200",
        "arch-b300",
    }
    assert set(fits.values()) == {Verdict.AGREES, Verdict.REFUSES}


def test_bounds_are_refused_with_their_own_codes(registry, cpu):
    narrow = registry(align_k=16, m_min=4, m_max=100, m_multiple=2, in_dtypes=("bf16",))
    found = {c.label: o for c, o in verdicts(narrow, cpu, checks=("bounds",))}
    assert not [o.reason for o in found.values() if o.verdict is Verdict.FAILS]
    for label, code in {
        "m_min-3": "m_range",
        "m_max-102": "m_range",
        "m_multiple-5": "m_multiple",
        "align_k-79": "align_k",
        "in_dtype-fp16": "in_dtype",
        "padded_n": "padded_n",
        "padded_m": "padded_m",
        "operand-nvfp4": "operand",
    }.items():
        assert (found[label].verdict, found[label].code) == (Verdict.REFUSES, code), label
    for label in ("m_min-4", "m_max-100", "m-0", "align_k-96", "eps-fp8_token"):
        assert found[label].verdict is Verdict.AGREES, label


def test_a_missing_refusal_fails(registry, cpu, monkeypatch):
    known = registry(align_k=16)
    monkeypatch.setattr("quantmux.dispatch.eligible._aligned", lambda *_: [])
    found = {c.label: o for c, o in verdicts(known, cpu, checks=("bounds",))}
    assert found["align_k-79"].verdict is Verdict.FAILS
    assert "align_k" in found["align_k-79"].reason


@pytest.mark.parametrize(
    ("asked", "some"),
    [
        ({"backend": "other"}, False),
        ({"ops": ("linear",)}, False),
        ({"kernels": ("told/token",)}, True),
        ({"kernels": ("token",)}, True),
        ({"kernels": ("tok",)}, False),
    ],
)
def test_cells_are_those_that_are_asked_for(registry, cpu, asked, some):
    assert bool(engine.cells(registry(), cpu, **asked)) is some


def test_every_check_gives_cells_for_some_kernel(cpu):
    from quantmux.registry import load_registry

    given = {cell.check for cell in engine.cells(load_registry(), cpu)}
    assert given == set(CHECKS)


def test_the_same_seed_gives_the_same_inputs(registry, cpu):
    known = registry()
    cell = engine.cells(known, cpu, checks=("repeat",))[0]
    one, again, other = (
        engine._stage(known, cpu, seed).trial(known.kernels[0], cell.case) for seed in (1, 1, 2)
    )
    assert torch.equal(one.inputs[0], again.inputs[0])
    assert not torch.equal(one.inputs[0], other.inputs[0])
