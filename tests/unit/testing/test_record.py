"""What a run proves: a whole one everything, a part only what it broke."""

import pytest
from kernels_under_test import Told

from quantmux.capability.evidence import EvidenceLevel
from quantmux.registry.digest import kernel_digest
from quantmux.registry.ledger import record_evidence
from quantmux.testing import engine
from quantmux.testing.cell import Verdict
from quantmux.testing.record import evidence_rows, unrecorded


def run(registry, device, **asked):
    found = engine.cells(registry, device, **asked)
    return [(cell, engine.run_cell(cell, registry, device)) for cell in found]


@pytest.fixture
def known(registry):
    return registry()


@pytest.fixture
def whole(known, cpu):
    return run(known, cpu)


def test_a_whole_run_without_failure_is_verified(known, cpu, whole, tmp_path):
    (row,) = evidence_rows(whole, known, cpu)
    assert row.level is EvidenceLevel.VERIFIED
    assert row.failed == 0
    assert row.cases == sum(o.verdict is Verdict.AGREES and c.case is not None for c, o in whole)
    assert row.refused == sum(o.verdict is Verdict.REFUSES for _, o in whole)
    assert row.worst_error == 0.0
    assert row.digest == kernel_digest(known.kernels[0], known.folder("told"))
    assert "torch" in row.versions
    assert record_evidence([row], cpu.name, tmp_path).exists()


def test_a_part_without_failure_gives_no_row_and_says_so(known, cpu, whole):
    assert evidence_rows(whole[:-1], known, cpu) == ()
    assert unrecorded(whole[:-1], known, cpu) == {
        "told/token": f"{len(whole) - 1} of its {len(whole)} cells were run"
    }


def test_a_failure_counts_even_in_part(known, cpu):
    Told.fault = RuntimeError("boom")
    (row,) = evidence_rows(run(known, cpu, checks=("repeat",)), known, cpu)
    assert (row.level, row.failed) == (EvidenceLevel.DECLARED, 1)
    assert "boom" in row.note


def test_data_alone_proves_nothing(registry, cpu):
    elsewhere = registry(arch="90a")
    found = run(elsewhere, cpu)
    assert any(o.verdict is Verdict.AGREES for _, o in found)  # architectures, sources
    assert evidence_rows(found, elsewhere, cpu) == ()
    assert "never run" in unrecorded(found, elsewhere, cpu)["told/token"]
