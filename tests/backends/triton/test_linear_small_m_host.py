"""The FP8 products for few tokens: how they are cut up, their workspace, their machine code."""

from itertools import pairwise

import pytest
import torch

from quantmux.capability.arch import Arch
from quantmux.capability.profiles import profile
from quantmux.config import LinearConfig
from quantmux_triton.linear import fp8_small_m_config, workspace
from quantmux_triton.linear.fp8_block_small_m import kernel as block_kernel
from quantmux_triton.linear.fp8_small_m import kernel as row_kernel
from quantmux_triton.linear.fp8_small_m_config import Cut, cut_for, m_class

H200 = profile("h200")
SHAPES = ((576, 7168), (1536, 7168), (2112, 7168), (4096, 7168), (7168, 2048), (4096, 4096))
NOTHING_MEASURED = ()


@pytest.fixture
def computed(monkeypatch):
    """Choices without measured ones."""
    monkeypatch.setattr(fp8_small_m_config, "tuned_ranges", lambda *_a, **_k: NOTHING_MEASURED)


@pytest.mark.parametrize("m", [16, 32, 64])
@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.usefixtures("computed")
def test_a_computed_cut_fills_the_gpu_and_fits_it(n, k, m):
    cut = cut_for(H200, "row", n=n, k=k, m=m)
    programs = -(-n // cut.block_n) * cut.splits
    assert 63 <= programs <= 132
    assert cut.smem <= H200.smem_kib * 1024
    assert cut.splits <= -(-k // cut.block_k)


@pytest.mark.parametrize("device", ["l40s", "rtx_pro_6000", "h100", "b200"])
@pytest.mark.usefixtures("computed")
def test_a_cut_fits_the_shared_memory_of_every_device(device):
    there = profile(device)
    for m in (16, 32, 64):
        cut = cut_for(there, "block", n=4096, k=7168, m=m)
        assert cut.smem <= (there.smem_kib or 99) * 1024
        assert cut.pdl == ((there.arch.sm or 0) >= 90)


def test_a_measured_cut_is_taken_and_its_splits_are_for_its_shape_only(monkeypatch):
    row = {"n": 4096, "k": 7168, "block_n": 128, "block_m": 16, "block_k": 256, "warps": 8}
    row |= {"stages": 3, "splits": 4, "pdl": 1, "prefetch": 9, "hopper": 1}
    monkeypatch.setattr(
        fp8_small_m_config, "tuned_ranges", lambda *_a, **_k: ((22, row), (1 << 30, row))
    )
    there = cut_for(H200, "row", n=4096, k=7168, m=16)
    assert there == Cut(128, 16, 256, 8, 3, splits=4, pdl=True, prefetch=9, hopper=True)
    near = cut_for(H200, "row", n=2048, k=7168, m=16)
    assert (near.block_n, near.block_k, near.splits, near.prefetch) == (128, 256, 7, 3)
    older = cut_for(profile("l40s"), "row", n=4096, k=7168, m=16)
    assert (older.pdl, older.prefetch, older.hopper) == (False, 0, False)


def test_classes_of_m_end_where_tiles_do():
    assert [m_class(m) for m in (1, 16, 17, 32, 33, 64, 65)] == [16, 16, 32, 32, 64, 64, 64]


class _Stream:
    def synchronize(self):
        """Wait for nothing: the host is done when it says so."""


def test_counters_are_given_away_once_and_are_zero(monkeypatch):
    monkeypatch.setattr(workspace.torch.cuda, "current_stream", lambda _device: _Stream())
    supply = workspace._Supply(torch.device("cpu"))
    assert int(supply.take(5).abs().sum()) == 0  # before any refill: zeroed on the spot
    supply.refill()
    taken = [supply.take(n) for n in (1, 64, 33, 500)]
    spans = sorted((t.data_ptr(), t.data_ptr() + 4 * t.numel()) for t in taken)
    assert [t.numel() >= n for t, n in zip(taken, (1, 64, 33, 500), strict=True)] == [True] * 4
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert all(start % 128 == spans[0][0] % 128 for start, _ in spans)


def test_a_supply_that_runs_dry_still_gives_zeros_and_is_refilled_outside(monkeypatch):
    monkeypatch.setattr(workspace.torch.cuda, "current_stream", lambda _device: _Stream())
    monkeypatch.setattr(workspace, "SUPPLY", 96)
    supply = workspace._Supply(torch.device("cpu"))
    supply.refill()
    for _ in range(3):
        supply.take(32).fill_(1)
    assert int(supply.take(32).sum()) == 0
    supply.refill()
    assert int(supply.take(32).sum()) == 0


def test_a_host_has_its_own_memory_at_every_call():
    one, other = (workspace.split_workspace(torch.device("cpu"), 8, 2) for _ in range(2))
    assert one[0].data_ptr() != other[0].data_ptr()
    assert one[1].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("kernel", "scheme"), [(row_kernel, "fp8_channel_token"), (block_kernel, "fp8_block128")]
)
def test_it_compiles_for_hopper(kernel, scheme):
    config = LinearConfig.model_validate(
        {"in_features": 7168, "out_features": 576, "scheme": scheme}
    )
    found = kernel.compile_for(config, Arch.parse("90"))
    assert 1 <= len(found) <= kernel.declared_variants(config)
    assert {code.target for code in found} == {"sm_90a"}
