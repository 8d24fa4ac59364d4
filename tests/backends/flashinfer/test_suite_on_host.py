"""The conformance suite over every kernel of this backend, on GPUs that are not here.

The kernels, their capabilities and FlashInfer's own Python are the real ones; its compiled code is
`strict_fake`, so tensors lie on the CPU and the architecture of a capability is said to be the
host's. What is asked is everything around the library's machine code: which function is called
with what, preparation, padding, layouts and scales, refusals, threads, what a call leaves alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.backends.flashinfer.strict_fake import ARCHS, Fake

from quantmux.capability.arch import arch_sets
from quantmux.capability.profiles import CPU
from quantmux.registry.hookspecs import hookimpl
from quantmux.registry.kernel_spec import BackendInfo, KernelSpec
from quantmux.registry.manager import Registry
from quantmux.testing.cell import Verdict
from quantmux.testing.engine import cells, run_cell
from quantmux_flashinfer.catalog import offers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from quantmux.capability.device import DeviceProfile
    from quantmux.capability.rejection import Rejection
    from quantmux.config import LayerConfig
    from quantmux.testing.cell import Cell, Outcome

ELSEWHERE = {"sources", "compiles", "launches", "graph", "host_sync", "variants"}
"""Asked of the kernels as they are registered, or of a GPU: there is none here."""

FEW = {"numbers": 4, "bounds": 3, "strides": 2, "threads": 0}
"""Cells of each check that agree, and then it is enough; one of every other check."""

THREADED = ("linear_fp8_bmm_cublas", "linear_fp8_block_sm90")
"""Asked with several threads every time, which takes seconds: one behind each guard."""


class Plugin:
    """The backend's kernels that run on one architecture, on the host."""

    def __init__(self, sm: int) -> None:
        self.device = Fake(sm).device

    @hookimpl
    def quantmux_backend(self) -> BackendInfo:
        return BackendInfo(name="flashinfer", version="0")

    @hookimpl
    def quantmux_kernels(self) -> list[KernelSpec]:
        return [self._of_host(o.spec) for o in offers() if self._runs(o.spec)]

    def _runs(self, spec: KernelSpec) -> bool:
        return any(self.device.arch in archs for archs in spec.capability.arch)

    def _of_host(self, spec: KernelSpec) -> KernelSpec:
        def veto(config: LayerConfig, _device: DeviceProfile) -> Rejection | None:
            return None if spec.veto is None else spec.veto(config, self.device)

        capability = spec.capability.replace(arch=arch_sets("cpu"), needs=())
        return replace(spec, capability=capability, sources=(), veto=veto)


def kernels() -> list[tuple[int, str]]:
    """Give every kernel once, on the first architecture that it runs on."""
    found: dict[str, int] = {}
    for sm in ARCHS:
        for spec in Plugin(sm).quantmux_kernels():
            found.setdefault(spec.id.partition("/")[2], sm)
    return [(sm, stem) for stem, sm in found.items()]


def asked(registry: Registry, stem: str) -> dict[str, list[Cell]]:
    """Give the cells of a kernel by check."""
    found: dict[str, list[Cell]] = {}
    for cell in cells(registry, CPU, kernels=(stem,), small_only=True):
        if cell.check not in ELSEWHERE:
            found.setdefault(cell.check, []).append(cell)
    return found


def spread(mine: list[Cell]) -> list[Cell]:
    """Give the quick ones in an order whose beginning is spread over all of them."""
    quick = [cell for cell in mine if _is_quick(cell)]
    return sorted(quick, key=lambda cell: quick.index(cell) * 0.6180339887 % 1.0)


def _is_quick(cell: Cell) -> bool:
    """Tell whether the reference, in fp64 on one core, is not what the test would measure."""
    case = cell.case
    if case is None:
        return True
    config: Any = case.config
    return bool(case.m * config.n * getattr(config, "k", 1) <= 1 << 18)


def judge(fake: Fake, stem: str, most: Mapping[str, int] | None) -> None:
    """Ask a kernel: of each check until so many cells agreed, or all of them."""
    registry = Registry.of({"flashinfer": Plugin(fake.sm)})
    found: list[tuple[Cell, Outcome]] = []
    agreed: dict[str, int] = {}
    for check, every in asked(registry, stem).items():
        for cell in every if most is None else spread(every):
            if most is not None and agreed.get(check, 0) >= most.get(check, 1):
                break
            outcome = run_cell(cell, registry, CPU)
            found.append((cell, outcome))
            agreed[check] = agreed.get(check, 0) + (outcome.verdict is Verdict.AGREES)
    wrong = [f"{c.id}: {o.reason}" for c, o in found if o.verdict is Verdict.FAILS]
    assert not wrong, f"{len(wrong)} of {len(found)}\n" + "\n".join(wrong[:8])
    assert agreed["numbers"] > 0
    assert fake.launches
    assert fake.modules <= fake.asked


@pytest.mark.parametrize(("sm", "stem"), kernels())
def test_the_suite_passes_every_kernel_in_a_few_cells_of_each_check(
    fake_gpu: Callable[[int], Fake], sm: int, stem: str
) -> None:
    judge(fake_gpu(sm), stem, FEW | ({"threads": 1} if stem in THREADED else {}))


def elsewhere() -> list[tuple[int, str]]:
    """Give every kernel on each further architecture, where that changes what the library does."""
    differing = {
        offer.spec.id
        for offer in offers()
        if offer.entry.is_gated or any(use.archs for use in offer.entry.modules)
    }
    pairs = [
        (sm, spec.id.partition("/")[2])
        for sm in ARCHS
        for spec in Plugin(sm).quantmux_kernels()
        if spec.id in differing
    ]
    return [pair for pair in pairs if pair not in kernels()]


@pytest.mark.parametrize(("sm", "stem"), elsewhere())
def test_every_kernel_agrees_on_every_architecture_with_the_modules_it_asked_for(
    fake_gpu: Callable[[int], Fake], sm: int, stem: str
) -> None:
    fake = fake_gpu(sm)
    registry = Registry.of({"flashinfer": Plugin(sm)})
    for cell in spread(asked(registry, stem)["numbers"]):
        outcome = run_cell(cell, registry, CPU)
        assert outcome.verdict is not Verdict.FAILS, f"{cell.id}: {outcome.reason}"
        if outcome.verdict is Verdict.AGREES and fake.launches:
            break
    assert fake.launches
    assert fake.modules <= fake.asked


@pytest.mark.slow
@pytest.mark.parametrize(("sm", "stem"), kernels())
def test_the_suite_passes_every_kernel_in_every_cell(
    fake_gpu: Callable[[int], Fake], sm: int, stem: str
) -> None:
    judge(fake_gpu(sm), stem, None)
