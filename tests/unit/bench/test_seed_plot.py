"""The picture of the seeds: every measured ratio, its noise, the report's claim, stalls."""

import json
import re
from xml.etree import ElementTree as ET

import pytest

from quantmux.bench.seeds import plot
from quantmux.bench.seeds.experiment import About, Claim
from quantmux.bench.seeds.plot_points import shown, stalls
from quantmux.bench.seeds.plot_style import Box, Scale
from quantmux.bench.seeds.ratios import with_ratios
from quantmux.bench.seeds.report import SeedReport, Told
from quantmux.bench.seeds.rows import SeedRow
from quantmux.errors import ConfigError

SVG = "{http://www.w3.org/2000/svg}"


def case(name, m, before, seed, ours, experiment="silu_mul", **more):
    times = (("before", before), ("seed", seed), ("ours", ours))
    return with_ratios(
        [
            SeedRow(experiment, name, kind, kind, facts={"m": m}, us=us, aa_noise=0.02, **more)
            for kind, us in times
        ]
    )


def about(name, number, ratios=None):
    return About(name, number, f"{name}: what it is", Claim("about 2x", "its author", ratios), "2x")


def report(*rows, ratios=(2.0, 2.5), size="full"):
    found = SeedReport(
        "h200", "NVIDIA H200", "2026-11-21", {"torch": "2.11.0"}, {"copy_gb_s": 4200.0}, size
    )
    found.rows = list(rows)
    for number, name in enumerate(dict.fromkeys(row.experiment for row in rows)):
        found.told[name] = Told(about(name, 32996 + number, ratios))
    return found


ROWS = (
    *case("16x1024", 16, 40.0, 20.0, 10.0),
    *case("16x2048", 16, 90.0, 10.0, 10.0),
    *case("aligned", 16, 10.0, 10.1, 10.0, is_control=True),
    *case("512x1024", 512, 30.0, 20.0, 10.0),
)


def cold(way, kind, by_tokens, stalled):
    return SeedRow(
        "inverse_rope",
        "H=8 G=1 first calls",
        way,
        kind,
        is_main=True,
        facts={"heads": 8},
        method="process",
        extra={
            "variants": len(stalled),
            "stall_ms": sum(by_tokens.values()),
            "stall_by_tokens_ms": by_tokens,
            "stalled_tokens": stalled,
        },
    )


FIRST = (
    cold("nothing pinned", "before", {1: 900.0, 2: 300.0, 7: 0.0}, [1, 2]),
    cold("quantmux", "ours", {1: 1200.0, 2: 0.0, 7: 0.0}, [1]),
)


def drawn(found):
    return ET.fromstring(plot.seeds_svg(found.to_dict()))  # noqa: S314 - our own


def tips(root):
    return [element.text for element in root.iter(f"{SVG}title")]


def test_every_ratio_of_every_case_is_a_point_that_tells_its_number():
    root = drawn(report(*ROWS))
    found = tips(root)
    assert sum("/ours" in tip or "before/seed" in tip for tip in found) == 3 * 4 + 1
    assert "before/ours 4.00\n16x1024" in found
    assert "seed/ours 1.00\n16x2048" in found
    assert "before/seed 9.00\n16x2048" in found


def test_a_mean_leaves_controls_out_and_a_control_is_a_hollow_point():
    (panel,) = shown(report(*ROWS).to_dict())
    assert panel.mean("before/ours") == pytest.approx((4 * 9 * 3) ** (1 / 3))
    texts = [element.text for element in drawn(report(*ROWS)).iter(f"{SVG}text")]
    assert "before/ours 4.76" in texts
    hollow = [c for c in drawn(report(*ROWS)).iter(f"{SVG}circle") if c.get("stroke")]
    assert [c[0].text for c in hollow if len(c)] == [
        "before/ours 1.00\naligned",
        "seed/ours 1.01\naligned",
        "before/seed 0.99\naligned",
    ]


def test_a_higher_ratio_is_drawn_higher_and_equal_steps_of_ratio_are_equal_steps():
    scale = Scale.around([1.0, 4.0], Box(0, 0, 100, 100))
    one, two, four = scale.y(1.0), scale.y(2.0), scale.y(4.0)
    assert one > two > four > 0
    assert one - two == pytest.approx(two - four)


def test_the_reports_ratio_is_a_mark_and_only_where_it_speaks_of_that_ratio():
    mark = "the report: before/seed 2.00 to 2.50"
    assert mark in tips(drawn(report(*ROWS)))
    assert mark not in tips(drawn(report(*ROWS, ratios=None)))


def test_the_band_is_as_wide_as_the_largest_noise_of_that_number_of_rows():
    (panel,) = shown(report(*ROWS).to_dict())
    assert panel.noise == {16: 0.02, 512: 0.02}

    def band(found):
        rects = [r for r in drawn(found).iter(f"{SVG}rect") if r.get("fill") == "#d5dae1"]
        return [float(rect.get("height")) for rect in rects[1:]]  # the first is the legend's

    wide = [
        SeedRow.of({**row.to_dict(), "aa_noise": 0.2}) if row.case == "aligned" else row
        for row in ROWS
    ]
    few, many = band(report(*wide))
    assert few > 5 * many
    assert band(report(*ROWS)) == [many, many]


def test_stalls_are_pieces_of_a_bar_for_each_way():
    found = report(*case("T=1", 1, 10.0, 10.0, 10.0, experiment="inverse_rope"), *FIRST)
    before, ours = stalls(found.to_dict())
    assert before.parts == ((1, 900.0), (2, 300.0))
    assert (before.total_ms, ours.variants) == (1200.0, 1)
    root = drawn(found)
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert "2 variants, 1.20 s" in texts
    assert "1 variant, 1.20 s" in texts
    assert "nothing pinned: the first call with T = 2 waits 300 ms" in tips(root)


def test_a_result_file_that_was_read_again_gives_the_same_picture(tmp_path):
    found = report(*ROWS, *case("T=1", 1, 10.0, 10.0, 10.0, experiment="inverse_rope"), *FIRST)
    one, two = tmp_path / "one.svg", tmp_path / "two.svg"
    plot.write_plot(found, one)
    file = tmp_path / "result.json"
    file.write_text(json.dumps(found.to_dict()), encoding="utf-8")
    plot.main(str(file), str(two))
    assert one.read_text(encoding="utf-8") == two.read_text(encoding="utf-8")


def test_a_trial_on_a_host_says_that_its_figures_mean_nothing():
    texts = [element.text for element in drawn(report(*ROWS, size="tiny")).iter(f"{SVG}text")]
    assert any("THE FIGURES MEAN NOTHING" in text for text in texts)


def test_all_text_stays_inside_the_picture():
    six = [
        row
        for name in ("placeholder", "padded_weights", "silu_mul", "padded_nvfp4", "a" * 90)
        for row in case("case", 4096, 100.0, 20.0, 10.0, experiment=name)
    ]
    found = report(*six, *case("T=1", 1, 9.0, 9.0, 9.0, experiment="inverse_rope"), *FIRST)
    root = drawn(found)
    width, height = float(root.get("width")), float(root.get("height"))
    for element in root.iter(f"{SVG}text"):
        size = float(element.get("font-size"))
        wide = 0.62 * size * len(element.text)  # DejaVu Sans, a wide one
        anchor = element.get("text-anchor", "start")
        left = float(element.get("x")) - {"start": 0, "middle": wide / 2, "end": wide}[anchor]
        assert left >= -4, element.text
        assert left + wide <= width, element.text
        assert size <= float(element.get("y")) <= height, element.text


def test_nothing_timed_is_nothing_to_plot():
    lost = SeedRow("silu_mul", "16x1024", "ours", "ours", status="failed", reason="no")
    with pytest.raises(ConfigError, match="nothing to plot"):
        plot.seeds_svg(report(lost).to_dict())


def test_another_ending_is_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(ConfigError, match=re.escape("--plot writes .svg and .png")) as refused:
        plot.check_plot(tmp_path / "seeds.pdf")
    assert "seeds.svg" in str(refused.value)
