"""The kernels of `kernels_under_test`, importable by name as a plugin's are."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from kernels_under_test import Plugin, Told

from quantmux.capability.detect import resolve_device
from quantmux.registry.manager import Registry


@pytest.fixture(autouse=True)
def _no_fault_left():
    Told.fault = None
    yield
    Told.fault = None


@pytest.fixture
def cpu():
    return resolve_device("cpu")


@pytest.fixture
def registry():
    return lambda **changes: Registry.of({"told": Plugin(**changes)})
