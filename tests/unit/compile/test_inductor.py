"""The pass where it is meant to run: in inductor, with its cache, in this process and another."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from quantmux.compile import fusion_pass

PROGRAM = """
import json, sys
import torch
from torch import nn
from torch.nn import functional
import quantmux as qm
from quantmux.compile import fusion_pass

class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(128))
    def forward(self, x):
        h = x.float()
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * h.to(x.dtype)

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.gate_up, self.down = Norm(), nn.Linear(128, 512), nn.Linear(256, 128)
    def forward(self, x, out):
        gate, up = self.gate_up(self.norm(x)).chunk(2, -1)
        h = functional.silu(gate) * up
        y = x + self.down(h)
        if out is not None:
            gate, up = (y * 2).repeat(1, 4).chunk(2, -1)
            qm.quantize(functional.silu(gate) * up, CONFIG, out=out)
        return y

CONFIG = qm.QuantizeConfig(operand="fp8_token", n=256)
torch.manual_seed(0)
model = Block().to(torch.bfloat16).eval()
qm.quantize_(model, "fp8_channel_token")
one = fusion_pass()
compiled = torch.compile(
    model, fullgraph=True, dynamic=True, options={"post_grad_custom_pre_pass": one}
)
errors = []
with torch.no_grad():
    for m in (5, 7, 33):
        x = torch.randn(m, 128).to(torch.bfloat16)
        outs = [qm.empty_quantized(CONFIG.operand, CONFIG.layout, m, 256, "cpu") for _ in range(2)]
        got, want = compiled(x, outs[0]), model(x, outs[1])
        errors.append(float((got - want).float().norm() / want.float().norm()))
        a, b = (q.dequantize() for q in outs)
        errors.append(float((a - b).norm() / b.norm()))
report = one.report(quiet=True)
print(json.dumps({"errors": errors, "uuid": one.uuid(), **report.to_dict()}))
"""


def run(cache):
    """Run the program in a process of its own, over a cache of compiled graphs."""
    environment = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": str(cache),
        "TORCHINDUCTOR_FX_GRAPH_CACHE": "1",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "QUANTMUX_CACHE_DIR": str(cache / "quantmux"),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_graph_from_the_cache_runs_in_a_process_whose_pass_never_ran(tmp_path):
    first = run(tmp_path)
    assert max(first["errors"]) < 0.04
    assert [(s["pattern"], s["taken"]) for s in first["sites"]] == [
        ("rmsnorm", True),
        ("silu_mul", True),
        ("silu_mul", True),
    ]
    assert (first["graphs"], first["from_cache"]) == (1, 0)
    second = run(tmp_path)
    assert second["uuid"] == first["uuid"]
    assert second["errors"] == first["errors"]
    assert (second["graphs"], second["from_cache"], second["sites"]) == (0, 1, [])


def test_without_a_uuid_nothing_is_cached():
    assert fusion_pass(cache=False).uuid() is None


def test_the_source_of_the_pass_is_part_of_its_uuid(monkeypatch):
    from quantmux.compile import identity

    one = fusion_pass()
    before = one.uuid()
    assert before == fusion_pass().uuid()
    monkeypatch.setattr(identity, "_source", lambda: "another")
    assert one.uuid() != before


def test_the_files_of_the_pass_are_in_its_source():
    from quantmux.compile import identity

    root = Path(identity.__file__).resolve().parents[1]
    files = {f.relative_to(root).as_posix() for f in identity._files()}
    assert {
        "compile/search.py",
        "compile/patterns/silu_mul.py",
        "runtime/traced/legality.py",
        "runtime/traced/fused_calls.py",
    } <= files


def test_policy_kernels_and_quarantine_are_part_of_the_uuid(kit):
    import quantmux as qm

    kit.producer("a/fused", "fp8_token", ("row_major",), "silu_mul_quantize")
    context = kit.context()
    one = fusion_pass(context=context)
    seen = [one.uuid(), fusion_pass(context=kit.context()).uuid()]
    assert seen[0] == seen[1]  # other objects, the same kernels
    seen.append(fusion_pass({"deny": ["a/x"]}, context=context).uuid())
    with qm.policy(deny=["a/y"]):
        seen.append(one.uuid())
    seen.append(fusion_pass(context=kit.context(deny=("a/z",))).uuid())
    context.put_away("a/fused", qm.device("cpu"), "broken")
    seen.append(one.uuid())
    kit.producer("a/other", "fp8_token", ("row_major",), "silu_mul_quantize")
    seen.append(fusion_pass(context=kit.context()).uuid())
    assert len(set(seen)) == len(seen) - 1


def test_measured_times_are_part_of_the_uuid(kit):
    from quantmux.dispatch.tuning import TuningRow
    from quantmux.dispatch.tuning_files import record_tuning
    from quantmux.registry.user_folder import user_folder

    kit.producer("a/fused", "fp8_token", ("row_major",), "silu_mul_quantize")

    def uuid():
        return fusion_pass(context=kit.context()).uuid()

    def record(us):
        row = TuningRow(
            pipeline=("a/fused",),
            scheme="silu_mul_quantize fp8_token",
            n=128,
            k=128,
            m=16,
            us=us,
            digests={"a/fused": kit.context().digest("a/fused")},
        )
        record_tuning([row], "cpu", user_folder() / "tuning")

    seen = [uuid()]
    for us in (5.0, 6.0):
        record(us)
        seen.append(uuid())
    assert len(set(seen)) == 3
    record(5.0)
    assert uuid() == seen[1]  # by what was measured, not by when
