"""The FP8 products for few tokens: how they are cut up, their workspace, their machine code."""

import weakref
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import triton

from quantmux.capability.arch import Arch
from quantmux.capability.profiles import profile
from quantmux.config import LinearConfig
from quantmux_triton.linear import fp8_small_m_config, fp8_small_m_variant, workspace
from quantmux_triton.linear.fp8_block_small_m import kernel as block_kernel
from quantmux_triton.linear.fp8_small_m import kernel as row_kernel
from quantmux_triton.linear.fp8_small_m_config import Cut, cut_for, m_class
from quantmux_triton.linear.fp8_small_m_variant import plan_for

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


def test_counters_of_a_graph_stay_where_they_are_when_the_supply_is_refilled(monkeypatch):
    monkeypatch.setattr(workspace.torch.cuda, "current_stream", lambda _device: _Stream())
    monkeypatch.setattr(workspace, "SUPPLY", 64)
    supply = workspace._Supply(torch.device("cpu"))
    supply.refill()
    taken = supply.take(64)
    storage = weakref.ref(taken._base)  # what a captured graph knows the address of
    del taken
    supply.refill()
    assert storage() is not None


def test_a_host_has_its_own_memory_at_every_call():
    one, other = (workspace.split_workspace(torch.device("cpu"), 8, 2) for _ in range(2))
    assert one[0].data_ptr() != other[0].data_ptr()
    assert one[1].tolist() == [0, 0]


HOPPER = Cut(64, 16, 256, 4, 4, splits=7, pdl=True, hopper=True)
PORTABLE = Cut(64, 16, 256, 4, 4, splits=7, pdl=True, prefetch=4)
SCHEMES = ("fp8_channel_token", "fp8_channel_token+exact", "fp8_block128")


def layer(scheme):
    return LinearConfig.model_validate(
        {"in_features": 7168, "out_features": 576, "scheme": scheme, "bias": True}
    )


def assembly(monkeypatch, cut, scheme, arch):
    """Give the PTX of the one variant that a cut makes of a scheme."""
    found = []
    make = triton.compile

    def recording(*args, **kwargs):
        found.append(make(*args, **kwargs))
        return found[-1]

    monkeypatch.setattr(triton, "compile", recording)
    monkeypatch.setattr(fp8_small_m_variant, "cut_for", lambda *_args, **_shape: cut)
    kernel = block_kernel if "block" in scheme else row_kernel
    codes = kernel.compile_for(layer(scheme), Arch.parse(arch))
    assert len(codes) == len(found) == 1
    return str(found[0].asm["ptx"])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_on_hopper_tokens_are_the_narrow_side_and_weights_are_asked_for_first(monkeypatch, scheme):
    cut = replace(PORTABLE, block_k=128) if "exact" in scheme else PORTABLE
    ptx = assembly(monkeypatch, cut, scheme, "90")
    assert "wgmma.mma_async.sync.aligned.m64n16k32.f32.e4m3.e4m3" in ptx
    assert "cp.async.cg.shared.global" in ptx
    wait, begin = ptx.index("griddepcontrol.wait"), ptx.index("griddepcontrol.launch_dependents")
    assert ptx.index("prefetch.global.L2") < wait < begin < ptx.index("cp.async.cg.shared.global")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_hopper_form_loads_weights_before_it_waits_and_all_else_after(monkeypatch, scheme):
    ptx = assembly(monkeypatch, HOPPER, scheme, "90")
    assert "wgmma.mma_async.sync.aligned.m64n16k32.f32.e4m3.e4m3" in ptx
    wait, begin = ptx.index("griddepcontrol.wait"), ptx.index("griddepcontrol.launch_dependents")
    assert wait < begin
    before, after = ptx[:wait], ptx[begin:]
    loads = "cp.async.bulk.tensor.2d"
    assert before.count(loads) == 8  # four steps of two boxes of weights
    assert after.count(loads) == 8 + 4  # as many of x, and one step of both in the loop
    assert "ld.global" not in before
    assert "st.global" not in before


@pytest.mark.parametrize(
    ("arch", "instruction"),
    [
        ("89", "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32"),
        ("100", "tcgen05.mma.cta_group::1.kind::f8f6f4"),
        ("120", "e4m3.e4m3.f32"),
    ],
)
@pytest.mark.parametrize("scheme", ["fp8_channel_token", "fp8_block128"])
def test_other_gpus_multiply_fp8_too(monkeypatch, arch, instruction, scheme):
    cut = replace(PORTABLE, pdl=False, prefetch=0, stages=3)
    ptx = assembly(monkeypatch, cut, scheme, arch)
    assert instruction in ptx
    assert "griddepcontrol" not in ptx


def test_rows_that_the_hopper_form_cannot_read_take_the_portable_one(monkeypatch):
    monkeypatch.setattr(fp8_small_m_variant, "cut_for", lambda *_args, **_shape: HOPPER)
    config = layer("fp8_block128")
    assert plan_for(config, H200, 16).cut.hopper
    assert not plan_for(config, H200, 16, aligned=False).cut.hopper
    assert not plan_for(config.replace(in_features=7176), H200, 16).cut.hopper
    assert not plan_for(config.replace(in_features=7 * 65 * 128), H200, 16).cut.hopper


def test_the_table_of_scales_holds_the_blocks_of_the_longest_split():
    assert [replace(HOPPER, splits=s).scales(7168) for s in (1, 2, 4, 5, 7, 14)] == [
        64, 32, 16, 16, 8, 4
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kernel", "scheme"), [(row_kernel, "fp8_channel_token"), (block_kernel, "fp8_block128")]
)
def test_it_compiles_for_hopper(kernel, scheme):
    found = kernel.compile_for(layer(scheme), Arch.parse("90"))
    assert 1 <= len(found) <= kernel.declared_variants(layer(scheme))
    assert {code.target for code in found} == {"sm_90a"}
