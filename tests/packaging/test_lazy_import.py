"""What must work on a laptop without a GPU stays light: no torch, no terminal UI."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "triton", "flashinfer", "cutlass", "transformers", "typer", "rich")

LIGHT = (
    "quantmux",
    "quantmux.errors",
    "quantmux.config",
    "quantmux.capability",
    "quantmux.registry",
    "quantmux.dispatch",
    "quantmux.checkpoint",  # headers, formats and plans; tensors load torch when they are asked for
    "quantmux_cutlass.plugin",
    "quantmux_flashinfer.plugin",
    "quantmux_torch.plugin",
    "quantmux_triton.plugin",
)

PROBE = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
print(json.dumps([name for name in sys.argv[2:] if name in sys.modules]))
"""


def loaded_by(module):
    # A process of its own: in this one pytest and other tests have long imported torch.
    done = subprocess.run(
        [sys.executable, "-c", PROBE, module, *HEAVY], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("module", LIGHT)
def test_loads_nothing_heavy(module):
    assert loaded_by(module) == []


def test_the_probe_sees_what_is_loaded():
    assert loaded_by("rich") == ["rich"]
