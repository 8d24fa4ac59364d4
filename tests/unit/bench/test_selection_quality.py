"""The figures of a grid: what is best, what is a loss, what one backend alone would cost."""

from functools import partial
from types import SimpleNamespace

import pytest

from quantmux.bench.rows import Row
from quantmux.bench.selection.cells import cells_of
from quantmux.bench.selection.grid import GRID_MS, grid_cases, grid_shapes
from quantmux.bench.selection.judge import judge, judge_by_scheme
from quantmux.bench.selection.picture import picture
from quantmux.errors import ConfigError

OURS = ("triton/quantize", "cutlass/linear")
THEIRS = ("triton/quantize", "triton/linear")
TORCHS = ("torch/quantize", "cutlass/linear")


def row(pipeline, us, m=1, *, kind="kernel", aa=None, noise=0.0, scheme="fp8_block128", **more):
    return Row(
        op="linear", case=f"M={m}", kernel=" -> ".join(pipeline), kind=kind, us=us, noise=noise,
        aa_noise=aa, scheme=scheme, n=64, k=128, m=m, tier="native", pipeline=pipeline, **more,
    )  # fmt: skip


def selects(pipeline, layouts=("canonical",)):
    """Give a selector that takes one pipeline for every M."""
    taken = SimpleNamespace(ids=pipeline, tier="native")
    answer = SimpleNamespace(pipeline_for=lambda _: taken, weight_layouts=layouts)
    return lambda _: answer


def specs(**layouts):
    given = {"cutlass/linear": "canonical", "triton/linear": "canonical"} | layouts
    return {
        name: SimpleNamespace(capability=SimpleNamespace(weight_layout_for=partial(_said, layout)))
        for name, layout in given.items()
    }


def _said(layout, *_shape):
    return layout


def cells(rows, pick=OURS, **layouts):
    return cells_of(rows, selects(pick), specs(**layouts))


def test_what_is_taken_is_held_against_the_fastest():
    (cell,) = cells([row(OURS, 11.0), row(THEIRS, 10.0)])
    assert cell.loss == pytest.approx(0.1)
    assert cell.best.ids == THEIRS
    assert cell.is_loss


@pytest.mark.parametrize(
    ("aa", "noise", "is_loss"),
    [(0.01, 0.0, True), (0.05, 0.0, False), (None, 0.05, False), (None, 0.0, True)],
)
def test_a_difference_within_noise_is_no_loss(aa, noise, is_loss):
    (cell,) = cells([row(OURS, 10.4, aa=aa), row(THEIRS, 10.0, noise=noise)])
    assert cell.is_loss is is_loss
    found = judge([cell])
    assert found.near == 0.0
    assert found.near_or_noise == (0.0 if is_loss else 1.0)


def test_one_weight_layout_bounds_what_selection_could_take():
    rows = [row(OURS, 12.0), row(THEIRS, 10.0)]
    (cell,) = cells(rows, **{"triton/linear": "triton:slabs"})
    assert cell.best.us == 10.0
    assert cell.on_layout.us == 12.0
    found = judge([cell])
    assert (found.ratio, found.on_layout) == (pytest.approx(1.2), pytest.approx(1.0))


def test_a_backend_alone_takes_its_own_quantizer_and_torchs_only_where_it_has_none():
    rows = [row(OURS, 10.0), row(THEIRS, 14.0), row(TORCHS, 40.0, kind="alone")]
    rows.append(row(("torch/quantize", "triton/linear"), 1.0, kind="alone"))
    (cell,) = cells(rows[:3])
    assert cell.own["cutlass"].ids == TORCHS
    assert cell.consumers["cutlass"].us == 10.0
    (cell,) = cells(rows)
    assert cell.own["triton"].ids == THEIRS  # it has one of its own: torch's is not asked


def test_one_backend_is_compared_where_both_serve_and_the_rest_is_counted():
    rows = [row(OURS, 10.0, 1), row(THEIRS, 20.0, 1), row(OURS, 10.0, 2), row(OURS, 10.0, 4)]
    rows.append(row(THEIRS, 5.0, 4))
    by_name = {one.backend: one for one in judge(cells(rows)).fixed}
    triton = by_name["triton"]
    assert (triton.cells, triton.unserved) == (2, 1)
    assert triton.ratio == pytest.approx(1.0)  # 2x and 0.5x
    assert by_name["cutlass"].ratio is None
    assert by_name["cutlass"].with_others == pytest.approx(1.0)


def test_what_was_taken_but_has_no_time_is_told_and_counted_as_nothing():
    rows = [row(THEIRS, 10.0), row(OURS, None, status="failed", reason="it disagrees")]
    (cell,) = cells(rows)
    assert cell.pick is None
    assert "it disagrees" in cell.problem
    found = judge([cell])
    assert (len(found.cells), len(found.served), found.ratio) == (1, 0, None)


def test_rows_of_the_twin_and_of_other_tiers_are_no_best():
    rows = [row(OURS, 10.0), row(OURS, 1.0, kind="aa")]
    lower = row(("torch/linear_emulated",), 2.0)
    (cell,) = cells([*rows, Row(**{**lower.to_dict(), "tier": "emulated"})])
    assert cell.best.us == 10.0


def test_schemes_are_judged_apart_and_together():
    rows = [row(OURS, 10.0), row(THEIRS, 20.0)]
    rows += [row(OURS, 10.0, scheme="fp8_tensor"), row(THEIRS, 5.0, scheme="fp8_tensor")]
    block, tensor, both = judge_by_scheme(cells(rows))
    assert [block.name, tensor.name, both.name] == ["fp8_block128", "fp8_tensor", "all"]
    assert (block.ratio, tensor.ratio) == (pytest.approx(1.0), pytest.approx(2.0))
    assert both.ratio == pytest.approx(2**0.5)
    assert [cell.scheme for cell in both.worst()] == ["fp8_tensor"]


def test_the_picture_has_a_square_per_cell_and_marks_noise():
    rows = [row(OURS, 10.4, 1), row(THEIRS, 10.0, 1), row(OURS, 15.0, 16), row(THEIRS, 10.0, 16)]
    rows += [row(OURS, 10.2, 64, aa=0.05), row(THEIRS, 10.0, 64)]
    text = picture(judge_by_scheme(cells(rows)), "title", "when")
    for said in (">64×128<", ">4.0<", ">50<", ">(2.0)<", ">title<", "triton"):
        assert said in text
    with pytest.raises(ConfigError, match="nothing to plot"):
        picture([judge([])], "title", "when")


def test_the_grid_holds_every_linear_of_the_models_once_in_every_scheme():
    shapes = grid_shapes()
    assert len(shapes) == len(set(shapes)) == 16
    cases = grid_cases(("fp8_block128", "fp8_tensor"), shapes, GRID_MS)
    assert len(cases) == len(set(cases)) == 2 * 16 * 13
    # neighbours share weights, and a shape comes in all schemes before the next
    assert [c.config for c in cases[:13]] == [cases[0].config] * 13
    assert cases[13].shape == cases[0].shape
