"""The picture: well-formed, a mark for every row, ceilings named."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from importlib import util

import pytest

from quantmux.bench.roofline import roofline_svg, write_plot
from quantmux.bench.rows import Report, Row
from quantmux.errors import ConfigError

ROW = Row(
    op="linear",
    case="linear x M=16",
    kernel="acme/quantize -> acme/gemm",
    pipeline=("acme/quantize", "acme/gemm"),
    us=10.0,
    us_min=9.0,
    us_max=11.0,
    gb_s=2000.0,
    tflops=60.0,
    scheme="fp8_<tensor>",
)
CEILINGS = {"copy_gb_s": 4268.0, "fp8_tflops": 1426.0, "bf16_tflops": 768.0}


def report(*rows):
    return Report("h200", "NVIDIA H200", "2026-11-21", {"torch": "2.11"}, CEILINGS, list(rows))


def tags(text, name):
    return ET.fromstring(text).findall("{http://www.w3.org/2000/svg}" + name)  # noqa: S314 - ours


def test_every_timed_row_has_a_mark_that_tells_its_time():
    peer = replace(ROW, kernel="peer", kind="peer", pipeline=(), us=8.0, tflops=75.0)
    failed = replace(ROW, us=None, status="failed")
    text = roofline_svg(report(ROW, peer, failed))
    marks = tags(text, "circle") + tags(text, "polygon")
    tips = [mark[0].text for mark in marks if len(mark)]
    assert len(tips) == 2
    assert any("10.00 µs" in tip for tip in tips)


def test_ceilings_are_drawn_and_named():
    texts = [item.text for item in tags(roofline_svg(report(ROW)), "text")]
    assert {"copy 4,268 GB/s", "fp8 1,426 TFLOP/s", "bf16 768 TFLOP/s"} <= set(texts)


def test_a_point_lies_where_its_numbers_say():
    slow = replace(ROW, us=100.0, tflops=6.0, gb_s=200.0)
    marks = [m for m in tags(roofline_svg(report(ROW, slow)), "circle") if len(m)]
    (x1, y1), (x2, y2) = ((float(m.get("cx")), float(m.get("cy"))) for m in marks)
    assert x1 == pytest.approx(x2, abs=0.1)
    assert y2 > y1  # slower lies lower


def test_producers_stand_by_bytes_and_rate():
    mover = replace(ROW, op="quantize", kernel="acme/quantize", tflops=0.0)
    texts = [item.text for item in tags(roofline_svg(report(mover)), "text")]
    assert "MB that must be moved" in texts


def test_there_is_nothing_to_plot_without_a_time():
    with pytest.raises(ConfigError, match="nothing to plot"):
        roofline_svg(report(replace(ROW, us=None)))


def test_a_plot_is_written_whole(tmp_path):
    write_plot(report(ROW), tmp_path / "new" / "r.svg")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["r.svg"]


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"\.svg and \.png"):
        write_plot(report(ROW), tmp_path / "r.pdf")


@pytest.mark.skipif(util.find_spec("cairosvg") is not None, reason="cairosvg is here")
def test_a_png_without_cairosvg_says_what_is_missing(tmp_path):
    with pytest.raises(ConfigError, match="cairosvg"):
        write_plot(report(ROW), tmp_path / "r.png")
