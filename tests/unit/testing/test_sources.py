"""The digest covers what the kernel imports, or the check says what it misses."""

import sys

import pytest

from quantmux.testing import engine
from quantmux.testing.cell import Verdict
from quantmux.testing.checks.sources import import_closure


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "closure_of_imports"
    folder.mkdir()
    for name, text in {
        "__init__.py": '"""Nothing but words."""\n',
        "kernel.py": "from __future__ import annotations\n"
        "from typing import TYPE_CHECKING\n"
        "from . import near\n"
        "from closure_of_imports.far import thing\n"
        "if TYPE_CHECKING:\n    from closure_of_imports import types_only\n"
        "def f():\n    from .late import x\n    return x\n",
        "near.py": "import json\n",
        "far.py": "from .deep.inner import thing\n",
        "late.py": "x = 1\n",
        "types_only.py": "",
        "unused.py": "",
        "deep/__init__.py": "VERSION = 1\n",
        "deep/inner.py": "thing = 2\n",
    }.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [n for n in sys.modules if n.startswith("closure_of_imports")]:
        del sys.modules[name]


def test_closure_holds_relative_late_and_deep_imports_and_no_others(package):
    found = import_closure("closure_of_imports.kernel", package)
    assert {f.relative_to(package).as_posix() for f in found} == {
        "kernel.py",
        "near.py",
        "far.py",
        "late.py",
        "deep/__init__.py",
        "deep/inner.py",
    }


def test_declared_sources_that_cover_it_agree(registry, cpu):
    known = registry()
    (cell,) = engine.cells(known, cpu, checks=("sources",))
    assert engine.run_cell(cell, known, cpu).verdict is Verdict.AGREES


@pytest.mark.parametrize(
    ("sources", "reason"),
    [((), "kernels_under_test.py"), (("kernels_under_test.py", "gone.cu"), "absent: gone.cu")],
)
def test_a_source_that_is_left_out_or_absent_fails(registry, cpu, monkeypatch, sources, reason):
    from dataclasses import replace

    known = registry()
    monkeypatch.setitem(known._kernels, "told/token", replace(known.kernels[0], sources=sources))
    (cell,) = engine.cells(known, cpu, checks=("sources",))
    outcome = engine.run_cell(cell, known, cpu)
    assert outcome.verdict is Verdict.FAILS
    assert reason in outcome.reason
