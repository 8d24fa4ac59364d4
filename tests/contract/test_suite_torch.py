"""The torch backend is proved by the suite that anybody runs: every cell, on the CPU."""

from collections import Counter

import pytest
import torch

from quantmux.capability.detect import resolve_device
from quantmux.registry import load_registry
from quantmux.testing.cell import Verdict
from quantmux.testing.engine import cells, run_cell

REGISTRY = load_registry(only=("torch",))
CPU = resolve_device("cpu")
HERE = {
    "torch/inverse_rope_quantize": 250,
    "torch/linear_emulated": 700,
    "torch/linear_int_mm_cpu": 140,
    "torch/linear_reference": 800,
    "torch/linear_scaled_mm_cpu": 300,
    "torch/quantize": 850,
    "torch/relayout": 350,
    "torch/rmsnorm_quantize": 950,
    "torch/rope_quantize": 400,
    "torch/silu_mul_quantize": 850,
}
"""Kernels that run on a CPU → least number of cells that agree; fewer is a suite that shrank."""

NOT_HERE = sorted({kernel.id for kernel in REGISTRY.kernels} - set(HERE))


@pytest.fixture(autouse=True)
def _one_thread():
    # thousands of small products: threads wait for each other ten times as long as they work
    was = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(was)


def outcomes(kernel):
    asked = cells(REGISTRY, CPU, kernels=(kernel,))
    return [(cell, run_cell(cell, REGISTRY, CPU)) for cell in asked]


@pytest.mark.parametrize("kernel", HERE)
def test_every_cell_agrees_or_refuses(kernel):
    found = outcomes(kernel)
    failures = [f"{c.id}: {o.code}: {o.reason}" for c, o in found if o.verdict is Verdict.FAILS]
    assert not failures, "\n".join(failures[:5])
    agreed = Counter(o.verdict for c, o in found if c.case is not None)[Verdict.AGREES]
    assert agreed >= HERE[kernel]
    refused = {o.code for _, o in found if o.verdict is Verdict.REFUSES}
    assert refused <= {"operand", "scheme", "arch"}


def test_kernels_of_gpus_are_not_here_and_refuse_other_architectures():
    for kernel in NOT_HERE:
        found = {cell.label: outcome for cell, outcome in outcomes(kernel)}
        assert found["not here"].code == "arch"
        assert found["arch-cpu"].verdict is Verdict.REFUSES
        assert found["import closure"].verdict is Verdict.AGREES
        assert Verdict.FAILS not in {o.verdict for o in found.values()}
