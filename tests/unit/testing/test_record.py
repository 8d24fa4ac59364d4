"""What a run proves: a whole one everything, a part only what it broke."""

import importlib

import pytest
from kernels_under_test import Told

from quantmux.capability.evidence import EvidenceLevel
from quantmux.registry.digest import kernel_digest
from quantmux.registry.ledger import record_evidence
from quantmux.registry.manager import Registry
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


def test_sources_that_changed_during_the_run_prove_nothing(tmp_path, cpu, monkeypatch):
    (tmp_path / "edited_kernel.py").write_text(EDITED)
    monkeypatch.syspath_prepend(tmp_path)
    plugin = importlib.import_module("edited_kernel")
    registry = Registry.of({"edited": plugin})
    found = run(registry, cpu)
    assert len(evidence_rows(found, registry, cpu)) == 1
    (tmp_path / "edited_kernel.py").write_text(EDITED + "# better now\n")
    assert evidence_rows(found, registry, cpu) == ()
    assert "sources changed" in unrecorded(found, registry, cpu)["edited/token"]


EDITED = """
from kernels_under_test import Plugin, Told
from quantmux import BackendInfo, KernelSpec, hookimpl

KERNEL = Told()


@hookimpl
def quantmux_backend():
    return BackendInfo(name="edited", version="1", api=">=1.0,<2")


@hookimpl
def quantmux_kernels():
    (told,) = Plugin().quantmux_kernels()
    yield KernelSpec(
        id="edited/token",
        op="quantize",
        capability=told.capability,
        load="edited_kernel:KERNEL",
        sources=("edited_kernel.py",),
    )
"""


def test_what_compiles_for_other_devices_may_be_missing(registry, cpu):
    known = registry(arch=("cpu", "90a"), tags=frozenset(), is_reference=False)
    whole = run(known, cpu)
    here = [(cell, outcome) for cell, outcome in whole if cell.check != "compiles"]
    assert len(here) < len(whole)
    (row,) = evidence_rows(here, known, cpu)
    assert row.level is EvidenceLevel.VERIFIED
