"""The experiments `padded_nvfp4` and `padded_nvfp4_gemm`."""

from dataclasses import replace

import pytest
import torch

from quantmux.bench.materials import Materials
from quantmux.bench.seeds import padded_nvfp4_ways as ways
from quantmux.bench.seeds.experiment import Made, Refused
from quantmux.bench.seeds.measure import measure
from quantmux.bench.seeds.padded_nvfp4 import (
    BEFORE,
    LAYOUTS,
    OURS,
    SEED,
    PaddedNvfp4,
    padded_config,
)
from quantmux.bench.seeds.padded_nvfp4_gemm import WHOLE, PaddedNvfp4Gemm
from quantmux.bench.seeds.padded_nvfp4_remarks import PAD_BYTES, QUANTIZE_BYTES
from quantmux.bench.seeds.padded_nvfp4_shapes import PADDED_SHARDS, SEED_WIDTH, SHARDS
from quantmux.bench.seeds.plot_points import shown
from quantmux.bench.seeds.ratios import with_ratios
from quantmux.bench.seeds.report import SeedReport, Told
from quantmux.bench.seeds.rows import SeedRow
from quantmux.bench.seeds.stage import stage_for
from quantmux.capability.detect import HERE_CPU
from quantmux.config import QuantizeConfig
from quantmux.errors import LayoutError
from quantmux.ops.agreement import agreement
from quantmux.ops.layouts import as_bits, flat_storage
from quantmux.runtime.context import default_context


@pytest.fixture
def stage():
    return stage_for(default_context(), HERE_CPU)


def one_input(config, m):
    return Materials(config, HERE_CPU).inputs(m, 1)[0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("m", [1, 3, 130])
@pytest.mark.parametrize("n", [48, 464])
def test_the_three_ways_give_the_same_bytes_with_the_padding_zero(stage, layout, m, n):
    config = padded_config(n, layout)
    call = one_input(config, m)
    x, g = call.args[0], call.kwargs["global_scale"]
    for way_of in (ways.before_of, ways.seed_of, ways.ours_of):
        run, _ = way_of(config, stage)
        q = run(x, g)
        found = agreement(config, call, q)
        assert found.ok, (way_of.__name__, found.reason)
        assert not bool(q.data[:, n // 2 :].any())


def test_a_pad_that_is_not_zero_is_seen(stage):
    config = padded_config(48, "swizzled_128x4")
    call = one_input(config, 3)
    q = ways.before_of(config, stage)[0](call.args[0], call.kwargs["global_scale"])
    q.data[1, 30] = 1
    assert not agreement(config, call, q).ok
    q.data[1, 30] = 0
    flat_storage(as_bits(q.scales), q.scales.numel())[3] = 1  # column 3 of row 0, of 3 columns
    assert not agreement(config, call, q).ok


@pytest.mark.parametrize("way_of", [ways.before_of, ways.seed_of])
def test_scales_were_zeroed_first_in_one_layout_only(stage, monkeypatch, way_of):
    zeroed = []
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *a, **k: zeroed.append(a) or zeros(*a, **k))
    for layout, times in (("row_major", 0), ("swizzled_128x4", 1), ("swizzled_8x4", 0)):
        config = padded_config(48, layout)
        call = one_input(config, 3)
        run, _ = way_of(config, stage)
        zeroed.clear()
        run(call.args[0], call.kwargs["global_scale"])
        # the reference kernel, which stands here for a GPU's, fills with zeros itself
        mine = [shape for (shape, *_) in zeroed if shape == (128, 1)]
        assert len(mine) == times, (layout, zeroed)


def test_padding_that_takes_more_tiles_of_scales_is_refused(stage):
    config = QuantizeConfig(operand="nvfp4_static", n=64, layout="swizzled_128x4", padded_n=128)
    assert not ways.shares_tiles(config)
    with pytest.raises(LayoutError, match="padding the codes alone"):
        ways.before_of(config, stage)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n", [SEED_WIDTH, *(shard.n for shard in PADDED_SHARDS)])
def test_the_widths_that_are_timed_need_padding_and_no_more_tiles(n, layout):
    config = padded_config(n, layout)
    assert config.padded_n == n + 16
    assert ways.shares_tiles(config)


def test_shards_that_need_padding_are_told_from_those_that_do_not():
    assert [(s.n, s.padded_n) for s in PADDED_SHARDS] == [
        (464, 480),
        (176, 192),
        (2736, 2752),
        (3696, 3712),
    ]
    assert {s.n for s in SHARDS} - {s.n for s in PADDED_SHARDS} == {928, 1856, 672, 352, 7392}


def test_the_seed_refuses_8x4_and_says_how(stage):
    experiment = PaddedNvfp4()
    rows = measure(experiment, stage)
    refused = [row for row in rows if row.status == "refused"]
    assert [(row.kernel, row.facts["layout"]) for row in refused] == [(SEED, "swizzled_8x4")]
    assert "ValueError" in refused[0].reason
    others = [row for row in rows if row.status != "refused"]
    assert {row.status for row in others} == {"ok"}, [row.reason for row in others]
    assert sum(row.kernel == OURS and row.kind == "ours" for row in others) == len(LAYOUTS)
    assert sum(row.kernel == BEFORE for row in others) == len(LAYOUTS)


def test_the_full_cases_are_the_seeds_table_and_every_shard_in_three_layouts(stage):
    cases = PaddedNvfp4().cases(replace(stage, size="full"))
    asked = {(case.facts["n"], case.facts["m"], case.facts["layout"]) for case in cases}
    assert len(asked) == len(cases) == 3 * 7 + 3 * 3 * len(PADDED_SHARDS)
    assert {m for n, m, _ in asked if n == SEED_WIDTH} == {1, 8, 32, 128, 512, 2048, 8192}
    quick = PaddedNvfp4().cases(replace(stage, size="quick"))
    assert {case.name for case in quick} < {case.name for case in cases}


def test_the_gemm_gives_the_same_bits_whoever_padded(stage):
    experiment = PaddedNvfp4Gemm()
    case = experiment.cases(stage)[0]
    prepared = experiment.prepare(case, stage)
    found = {}
    for variant in prepared.variants:
        made = variant.make()
        assert isinstance(made, Made)
        y = made.calls[0]()
        checked = made.compare(y)
        assert checked.ok, (variant.name, checked.reason)
        assert not made.compare(y * 1.05).ok
        found[variant.name] = y
    assert len(found) == 4
    assert WHOLE in found
    first, *others = found.values()
    assert all(torch.equal(first, other) for other in others)


def test_every_variant_before_the_gemm_is_right_on_numbers_it_has_not_seen(stage):
    rows = measure(PaddedNvfp4Gemm(), stage)
    assert {row.status for row in rows} == {"ok"}, [row.reason for row in rows]


def test_remarks_say_how_far_before_is_behind_by_layout():
    def row(m, layout, ratio):
        facts = {"n": SEED_WIDTH, "m": m, "layout": layout}
        return SeedRow(
            "padded_nvfp4",
            f"{m} {layout}",
            OURS,
            "ours",
            facts=facts,
            us=1.0,
            is_main=True,
            before_ratio=ratio,
        )

    class Gpu:
        is_cuda = True

    rows = [row(1, "row_major", 2.0), row(128, "row_major", 8.0), row(8192, "row_major", 1.5)]
    found = "\n".join(PaddedNvfp4().remarks(rows, Gpu()))
    assert "M ≤ 128, before over ours, geomean: 4.00x row_major" in found
    assert "M = 8192, before over ours, geomean: 1.50x row_major" in found
    assert "also: row_major, 3 cases, geomean: before/ours 2.88: the seed is the same" in found
    both = PaddedNvfp4().remarks([*rows, row(1, "swizzled_128x4", 2.0)], Gpu())
    (headline,) = (line for line in both if line.startswith("swizzled_128x4, 1 cases"))
    assert "before/ours 2.00: the layout of the pull request" in headline


def test_the_means_are_of_the_layout_that_the_pull_request_has():
    facts = {"n": SEED_WIDTH, "m": 1}
    report = SeedReport("h200", "NVIDIA H200", "2026-11-21", {}, {}, "full")
    report.told["padded_nvfp4"] = Told(PaddedNvfp4.about)
    for layout, us in (("row_major", 90.0), ("swizzled_128x4", 40.0)):
        given = [
            SeedRow("padded_nvfp4", layout, kind, kind, facts={**facts, "layout": layout}, us=time)
            for kind, time in (("before", us), ("ours", 10.0))
        ]
        report.rows += with_ratios(given)
    found = report.summary("padded_nvfp4")
    assert (found["cases"], found["before"], found["most_before"]) == (1, 4.0, 4.0)
    (panel,) = shown(report.to_dict())
    assert [point.ratio for point in panel.points] == [4.0]


@pytest.mark.parametrize("way_of", [ways.before_of, ways.seed_of])
def test_a_call_allocates_codes_and_zeros_and_keeps_what_is_no_part_of_the_way(stage, way_of):
    config = padded_config(48, "swizzled_128x4")
    run, _ = way_of(config, stage)
    call, other = one_input(config, 3), one_input(config, 5)
    args = (call.args[0], call.kwargs["global_scale"])
    one, two = run(*args), run(*args)
    assert one.global_scale is two.global_scale
    assert one.scales.data_ptr() != two.scales.data_ptr()
    assert one.data.data_ptr() != two.data.data_ptr()
    five = run(other.args[0], other.kwargs["global_scale"])
    assert five.m == 5
    assert agreement(config, other, five).ok


def test_the_bytes_are_those_of_the_roofline():
    from quantmux.bench.traffic import work

    config = QuantizeConfig(operand="nvfp4_static", n=7168)
    assert work(config, 512).moved / (512 * 7168) == pytest.approx(QUANTIZE_BYTES)
    assert pytest.approx(1.5) == PAD_BYTES


def test_a_refusal_is_no_made_variant(stage):
    experiment = PaddedNvfp4()
    case = next(c for c in experiment.cases(stage) if c.facts["layout"] == "swizzled_8x4")
    seed = next(v for v in experiment.prepare(case, stage).variants if v.role == "seed")
    assert isinstance(seed.make(), Refused)
