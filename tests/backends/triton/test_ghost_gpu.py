"""Kernels compile and launch on a ghost: an H200 to Triton and to the hosts, with no GPU below.

Triton's driver is replaced by one that loads no code and launches nothing, and tensors stay on the
host. All else is as on the GPU: what `warmup` compiles, what calls would compile, under which keys.
So the suite's check ``variants`` holds for every kernel before it has seen a GPU.
"""

from types import SimpleNamespace

import pytest
import torch
from torch.overrides import TorchFunctionMode
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

import quantmux as qm
from quantmux.capability import detect
from quantmux.capability.device import DeviceProfile
from quantmux.capability.profiles import PROFILES
from quantmux.registry.default import default_registry
from quantmux.runtime.warmup import warmup
from quantmux.testing.cell import Verdict
from quantmux.testing.checks import variants
from quantmux.testing.checks.variants import compilations
from quantmux.testing.stage import Stage
from quantmux_triton.interpreter import interpreting
from quantmux_triton.plugin import quantmux_kernels

pytestmark = [
    pytest.mark.skipif(
        interpreting() or torch.cuda.is_available(),
        reason="needs a process that compiles, and no GPU",
    ),
    # the Gluon forms of the large linears leave the choice to Triton, and 3.9 says so once
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION is unset:UserWarning"),
]

launched = []


class GhostProfile(DeviceProfile):
    """An H200 whose tensors are on the host."""

    @property
    def is_cuda(self):
        return False


GHOST = GhostProfile(**{**dict(PROFILES["h200"]), "name": "ghost", "is_present": True})


class GhostLauncher:
    def __init__(self, src, _metadata):
        self.name = src.fn.__name__

    def __call__(self, *args):
        launched.append((self.name, args))


class GhostDriver:
    launcher_cls = GhostLauncher
    utils = SimpleNamespace(
        get_device_properties=lambda _: {"max_shared_mem": 232448, "multiprocessor_count": 132},
        load_binary=lambda *_: (1, 2, 32, 0, 1024),
        unload_module=lambda _: None,
    )

    def get_current_device(self):
        return 0

    def get_current_stream(self, _device):
        return 7

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


class OnHost(TorchFunctionMode):
    """Makes on the host what is asked for on a GPU."""

    def __torch_function__(self, func, _types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "cuda":
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


@pytest.fixture
def ghost(monkeypatch):
    facts = SimpleNamespace(
        multi_processor_count=132,
        major=9,
        minor=0,
        L2_cache_size=60 << 20,
        total_memory=141 << 30,
        shared_memory_per_block_optin=232448,
        name="ghost",
    )
    monkeypatch.setattr(driver, "_active", GhostDriver())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _=None: facts)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(detect, "_cuda_device", lambda *_: GHOST)
    launched.clear()
    with OnHost():
        yield GHOST


@pytest.mark.parametrize("kernel", [spec.id for spec in quantmux_kernels()])
def test_after_a_warmup_no_number_of_rows_compiles_anything(ghost, kernel):
    stage = Stage(default_registry(), ghost)
    cells = list(variants.cells(stage.spec(kernel), stage, small_only=True))
    assert cells, f"{kernel} serves nothing on an H200"
    for cell in cells[:2]:
        outcome = variants.run(cell, stage)
        assert outcome.verdict is Verdict.AGREES, f"{cell.id}: {outcome.reason}"
    assert launched


def test_warmup_of_a_plan_is_all_that_serving_it_needs(ghost):
    configs = [
        ("quantize", qm.QuantizeConfig(operand="fp8_group128", n=512, layout="col_major_aligned4")),
        ("silu", qm.SiluMulQuantizeConfig(operand="fp8_group128", n=512)),
    ]
    plan = qm.plan(configs, ghost)
    with compilations() as seen:
        report = warmup(plan, jobs=2)
    assert (len(report.units), report.failed) == (2, ())
    assert len(seen) >= 2
    stage = Stage(default_registry(), ghost)
    with compilations() as seen:
        for (_, config), (_, key) in zip(
            configs, [(x.name, x.selection) for x in plan.layers], strict=True
        ):
            (choice,) = plan.selections[key].ranges
            (step,) = choice.pipeline.steps
            assert step.kernel.backend == "triton"
            run = stage.registry.load_kernel(step.kernel.id).bind(config, ghost)
            for m in (1, 7, 16, 1000):
                wide = 2 * config.n if config.op == "silu_mul_quantize" else config.n
                run(torch.zeros(m, wide, dtype=torch.bfloat16))
    assert seen == []
    assert len(launched) == 8
