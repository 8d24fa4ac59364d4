"""A plugin whose kernels compile ahead, built by each test from the kernels it needs."""

import importlib
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from quantmux.capability.capability import Capability, OperandOffer
from quantmux.config import operand
from quantmux.registry.hookspecs import hookimpl
from quantmux.registry.kernel_spec import BackendInfo, KernelSpec
from quantmux.registry.manager import Registry

AHEAD = Path(__file__).with_name("ahead")
FAKES = Path(__file__).with_name("fakes")
MODULE = "quantmux_test_ahead_kernels"


class Plugin:
    __name__ = "ahead"

    def __init__(self, specs):
        self._specs = specs

    @hookimpl
    def quantmux_backend(self):
        return BackendInfo(name="ahead", version="1.0")

    @hookimpl
    def quantmux_kernels(self):
        return self._specs


@pytest.fixture
def ahead(monkeypatch):
    """The module of the kernels."""
    monkeypatch.syspath_prepend(str(AHEAD))
    yield importlib.import_module(MODULE)
    sys.modules.pop(MODULE, None)


@pytest.fixture
def registry_of(ahead):
    """Give a registry: stem → (attribute of the module, architectures)."""
    del ahead
    token = OperandOffer.of(operand("fp8_token"), ("row_major",))

    def build(kernels, **capability):
        fields = {"takes_padded_n": True, "takes_padded_m": True, "launches": 1, **capability}
        specs = [
            KernelSpec(
                id=f"ahead/{stem}",
                op="quantize",
                load=f"{MODULE}:{attribute}",
                capability=Capability(arch=arch, produces=(token,), **fields),
            )
            for stem, (attribute, arch) in kernels.items()
        ]
        return Registry.of({"ahead": Plugin(specs)})

    return build


class Fake:
    """Sweeps with the engine of quantmux_test_engine.py."""

    def __init__(self, monkeypatch, log):
        self._monkeypatch = monkeypatch
        self._log = log

    @property
    def journal(self):
        return Path(os.environ["QUANTMUX_CACHE_DIR"]) / "sweeps" / "cpu" / "journal.jsonl"

    def sweep(self, checks, *, factory="registry", selection=None, **options):
        """Sweep over these checks; of each, the cell 0 does it and the others agree."""
        from quantmux.testing.sweep import Plugins, sweep

        self._monkeypatch.setenv("TEST_CHECKS", checks)
        sys.modules.pop("quantmux_test_engine", None)
        plugins = Plugins(factory=f"quantmux_test_engine:{factory}")
        given = {"jobs": 1, "device": "cpu", "engine": "quantmux_test_engine", **options}
        return sweep(selection, plugins=plugins, **given)

    def environment(self, checks):
        """Give the environment of a process that sweeps."""
        path = os.pathsep.join([str(FAKES), os.environ.get("PYTHONPATH", "")])
        return {**os.environ, "TEST_CHECKS": checks, "PYTHONPATH": path}

    def runs(self):
        """Cell id → how often it was run, over all sweeps of the test."""
        return Counter(line.partition("\t")[0] for line in self._lines())

    def pids(self):
        """The processes that ran cells, in the order of their last cell."""
        found = [int(line.partition("\t")[2]) for line in self._lines()]
        return sorted(set(found), key=lambda pid: len(found) - found[::-1].index(pid))

    def _lines(self):
        return self._log.read_text().splitlines() if self._log.exists() else []


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Sweeps with an engine whose cells do what a test says."""
    monkeypatch.syspath_prepend(str(FAKES))
    monkeypatch.setenv("TEST_LOG", str(tmp_path / "runs.log"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    yield Fake(monkeypatch, tmp_path / "runs.log")
    sys.modules.pop("quantmux_test_engine", None)
