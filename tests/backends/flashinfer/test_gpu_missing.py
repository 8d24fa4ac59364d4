"""A module that is not compiled, on a real GPU: who serves, what is said, and nothing is blamed."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0),
        reason="needs a Hopper GPU",
    ),
    pytest.mark.skipif(find_spec("flashinfer") is None, reason="flashinfer is not installed"),
]

PROGRAM = """
import sys
import torch
import quantmux as qm
from quantmux.runtime.context import default_context

w = torch.randn(576, 1280, device="cuda", dtype=torch.bfloat16)
policy = {"order": ["flashinfer", "torch"], "deny": ["cutlass", "triton"]}
layer = qm.Linear.from_float(w, "fp8_block128", policy=policy)
y = layer(torch.randn(16, 1280, device="cuda", dtype=torch.bfloat16))
bound = layer.bind()
assert y.isfinite().all()
print("took", bound.pipeline_for(16).main.id)
for kernel, reasons in bound.selection.rejected.items():
    if kernel.startswith("flashinfer/linear_fp8_block_sm90"):
        print("refused", kernel, [str(r) for r in reasons])
print("pending", bound.pending)
print("quarantined", default_context().quarantine.entries())
print("imported", "flashinfer" in sys.modules)
"""


def run(folder: Path, build: str) -> dict[str, list[str]]:
    """Run the program with an empty cache of modules, and give its lines by their first word."""
    policy = folder / "plugins.toml"
    policy.write_text(
        f"""schema = 1
[plugins.flashinfer]
options = {{ build = "{build}", workspace = "{folder / "modules"}" }}
""",
        encoding="utf-8",
    )
    environment = {k: v for k, v in os.environ.items() if k != "FLASHINFER_WORKSPACE_BASE"}
    environment |= {
        "QUANTMUX_PLUGINS": str(policy),
        "QUANTMUX_CACHE_DIR": str(folder / "user"),
        "CUDA_MODULE_LOADING": "LAZY",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        word, _, rest = line.partition(" ")
        lines.setdefault(word, []).append(rest)
    return lines


def test_without_leave_to_compile_another_kernel_serves_and_the_reason_is_said(
    tmp_path: Path,
) -> None:
    said = run(tmp_path, "never")
    assert said["took"] == ["torch/linear_scaled_mm_block"]
    assert len(said["refused"]) == 2
    for line in said["refused"]:
        assert "fp8_blockscale_gemm_90" in line
        assert "quantmux build flashinfer" in line
    assert said["quarantined"] == ["()"]
    assert said["imported"] == ["False"]


def test_while_a_module_is_compiled_another_kernel_serves_and_nothing_is_quarantined(
    tmp_path: Path,
) -> None:
    said = run(tmp_path, "background")
    assert said["took"] == ["torch/linear_scaled_mm_block"]
    assert "flashinfer/linear_fp8_block_sm90" in said["pending"][0]
    assert said["quarantined"] == ["()"]
