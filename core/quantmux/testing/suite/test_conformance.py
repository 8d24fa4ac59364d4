"""One test per cell: a kernel agrees with the reference, or refuses with the reason that is due."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from quantmux.testing.cell import Cell

# the settings of whose folder it is run from do not make a kernel's warning an error
pytestmark = pytest.mark.filterwarnings("default")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make the cells into tests."""
    suite = metafunc.config.pluginmanager.get_plugin("quantmux-suite")
    if suite is None:
        raise pytest.UsageError(
            "the conformance suite needs to know whose kernels to prove: "
            "pytest --pyargs quantmux.testing.suite --backend NAME"
        )
    metafunc.parametrize("cell", suite.cells, ids=[cell.id for cell in suite.cells])


def test_conformance(cell: Cell, request: pytest.FixtureRequest) -> None:
    """Ask one kernel one question."""
    suite = request.config.pluginmanager.get_plugin("quantmux-suite")
    assert suite is not None
    suite.ask(cell, request)
