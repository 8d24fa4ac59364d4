"""The conformance suite over the producers and the relayout kernel, on GPUs that are not here.

As `test_suite_on_host`, with the vetoes that are the rooms' own left in place.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from quantmux.capability.arch import arch_sets
from quantmux.capability.profiles import CPU
from quantmux.registry.hookspecs import hookimpl
from quantmux.registry.kernel_spec import BackendInfo, KernelSpec
from quantmux.registry.manager import Registry
from quantmux.testing.cell import Verdict
from quantmux.testing.engine import cells, run_cell
from quantmux_flashinfer.catalog import offers

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.backends.flashinfer.strict_fake import Fake

KERNELS = (
    (100, "quantize_nvfp4", "fp4_quantize"),
    (120, "quantize_nvfp4", "fp4_quantize"),
    (100, "quantize_nvfp4_cute_dsl", "nvfp4_quantize_cute_dsl"),
    (100, "silu_mul_quantize_nvfp4", "silu_and_mul_nvfp4_quantize_cute_dsl"),
    (90, "relayout_nvfp4", "block_scale_interleave"),
    (103, "relayout_nvfp4", "block_scale_interleave"),
    (90, "rmsnorm_quantize_fp8_tensor", "rmsnorm_quant"),
    (90, "rope_quantize_fp8_tensor", "rope_quantize"),
)

NOT_OF_THE_HOST = {"sources", "compiles"}


class OnHost:
    """One kernel, said to be the host's."""

    def __init__(self, stem: str, **changes: object) -> None:
        self.stem, self.changes = stem, changes

    @hookimpl
    def quantmux_backend(self) -> BackendInfo:
        return BackendInfo(name="flashinfer", version="0")

    @hookimpl
    def quantmux_kernels(self) -> list[KernelSpec]:
        (spec,) = (o.spec for o in offers() if o.spec.id == f"flashinfer/{self.stem}")
        changes = {"arch": arch_sets("cpu"), "needs": (), **self.changes}
        return [replace(spec, capability=spec.capability.replace(**changes), sources=())]


def wrong(stem: str, step: int = 1, **changes: object) -> tuple[list[str], int]:
    """Give what fails of a kernel's cells, every ``step``-th one of them, and how many agree."""
    registry = Registry.of({"flashinfer": OnHost(stem, **changes)})
    mine = [c for c in cells(registry, CPU, small_only=True) if c.check not in NOT_OF_THE_HOST]
    found = [(cell, run_cell(cell, registry, CPU)) for cell in mine[::step]]
    bad = [f"{c.id}: {o.reason}" for c, o in found if o.verdict is Verdict.FAILS]
    return bad, sum(o.verdict is Verdict.AGREES for _, o in found)


def judge(fake: Fake, stem: str, launch: str, step: int) -> None:
    bad, agree = wrong(stem, step)
    assert not bad, f"{len(bad)} wrong\n" + "\n".join(bad[:10])
    assert agree >= 16 // step - 2
    assert set(fake.launches) == {launch}


@pytest.mark.parametrize(("sm", "stem", "launch"), KERNELS)
def test_the_suite_finds_nothing_in_some_of_its_cells(
    fake_with_producers: Callable[[int], Fake], sm: int, stem: str, launch: str
) -> None:
    judge(fake_with_producers(sm), stem, launch, 2 if stem.startswith("relayout") else 7)


@pytest.mark.slow
@pytest.mark.parametrize(("sm", "stem", "launch"), KERNELS)
def test_the_suite_finds_nothing_in_any_of_its_cells(
    fake_with_producers: Callable[[int], Fake], sm: int, stem: str, launch: str
) -> None:
    judge(fake_with_producers(sm), stem, launch, 1)


def without(stem: str, tag: str) -> frozenset[str]:
    (spec,) = (o.spec for o in offers() if o.spec.id == f"flashinfer/{stem}")
    return spec.capability.tags - {tag}


@pytest.mark.parametrize(
    ("sm", "stem", "tag"),
    [
        (100, "quantize_nvfp4", "approximate"),
        (100, "quantize_nvfp4", "finite_only"),
        (90, "rmsnorm_quantize_fp8_tensor", "finite_only"),
    ],
)
def test_without_a_tag_the_suite_refuses_what_it_allows(
    fake_with_producers: Callable[[int], Fake], sm: int, stem: str, tag: str
) -> None:
    fake_with_producers(sm)
    bad, _ = wrong(stem, 2, tags=without(stem, tag))
    assert bad


def test_a_product_rounded_to_bf16_is_seen_where_it_is_not_declared(
    fake_with_producers: Callable[[int], Fake],
) -> None:
    fake_with_producers(100)
    bad, _ = wrong("silu_mul_quantize_nvfp4", 3, rel_tolerance=None)
    assert bad
