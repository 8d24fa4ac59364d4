"""Questions need neither torch nor a GPU: each in a process of its own."""

import json
import subprocess
import sys

import pytest

PROBE = """
import json, sys
from quantmux.cli import main
code = main(sys.argv[1:])
heavy = [name for name in ("torch", "triton", "transformers") if name in sys.modules]
print(json.dumps({"code": code, "heavy": heavy}), file=sys.stderr)
"""

QUESTIONS = [
    ("doctor",),
    ("plugins",),
    ("plugins", "show", "torch"),
    ("matrix", "--device", "h200"),
    ("explain", "linear", "--scheme", "nvfp4", "--n", "4096", "--k", "14336", "--device", "b200"),
    ("plan", "CHECKPOINT", "--device", "h200"),
]


def ask(*args):
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *args], capture_output=True, text=True, check=True
    )
    return json.loads(done.stderr.splitlines()[-1]), done.stdout


@pytest.mark.parametrize("args", QUESTIONS, ids=lambda args: "-".join(args[:2]))
@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["text", "json"])
def test_loads_no_torch(args, flags, quantized):
    args = [str(quantized("fp8_block128")) if arg == "CHECKPOINT" else arg for arg in args]
    found, out = ask(*args, *flags)
    assert found == {"code": 0, "heavy": []}
    assert out.strip()
    if flags:
        json.loads(out)


def test_the_probe_sees_torch_where_it_is_loaded(quantized):
    found, _ = ask("run", str(quantized("fp8_block128")), "--tokens", "1", "--device", "cpu")
    assert found["code"] == 0
    assert "torch" in found["heavy"]
