"""The tiles that GPUs are given, in the interpreter: by itself it takes larger ones."""

import numpy as np
import pytest
import torch
import triton
from triton.runtime.interpreter import InterpreterBuilder

from quantmux.capability.arch import Arch
from quantmux.config import QuantizeConfig, operand
from quantmux.ops.inputs import make_matrix
from quantmux.ops.quantize.cases import AWKWARD_SCALE
from quantmux.ops.quantize.compare import compare_quantized
from quantmux.ops.quantize.reference import quantize
from quantmux.testing.answers import stored_bytes
from quantmux_triton.arithmetic import GUARDED_ONCE, GUARDED_TWICE
from quantmux_triton.quantize import tensor
from quantmux_triton.quantize.fp8_group import GroupPlan
from quantmux_triton.quantize.fp8_group_config import Tile
from quantmux_triton.quantize.producer import Source
from quantmux_triton.quantize.tensor import TensorPlan
from quantmux_triton.quantize.tensor_config import MatrixTile
from quantmux_triton.quantize.token import TokenPlan
from quantmux_triton.quantize.token_config import RowTile

pytestmark = pytest.mark.interpreter

RELEASE = tuple(int(part) for part in triton.__version__.split(".")[:2])
CPU = Arch.parse("cpu")


def check(plan, config, m, kind="normal", scale=None, magnitude=3.0):
    x = make_matrix(kind, m, config.n, config.in_dtype, magnitude=magnitude, seed=m, device="cpu")
    want = quantize(x, config, scale=scale)
    got = plan.outputs.new(m, x.device)
    for part in got.tensors():
        stored_bytes(part).fill_(0xFF)
    plan.run(Source.of(x), got, scale)
    compare_quantized(got, want).require(f"{config} M={m}")


@pytest.mark.parametrize("tile", [(1, 4, 1), (4, 8, 4), (8, 4, 4)], ids=str)
@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("fp8_group128", "row_major"),
        ("fp8_group128", "col_major"),
        ("fp8_group64", "col_major_aligned4"),
        ("fp8_group64_pow2", "packed_pow2"),
    ],
)
def test_every_tile_writes_the_whole_padded_extent_of_every_layout(name, layout, tile):
    g = operand(name).block.cols
    for n, padded_n, multiple in ((4 * g + 24, 6 * g, 2), (9 * g, 9 * g, 1)):
        config = QuantizeConfig(
            operand=name, n=n, layout=layout, padded_n=padded_n, padded_m_multiple=multiple
        )
        plan = GroupPlan(config, CPU, tile=Tile(*tile))
        check(plan, config, 5)
        check(plan, config, 9, kind="mixed")


@pytest.mark.parametrize("tile", [(1, 256, 1), (4, 256, 4), (2, 128, 4)], ids=str)
@pytest.mark.parametrize("name", ["fp8_token", "fp8_token_pow2", "int8_token"])
def test_rows_are_quantized_alike_whether_they_are_held_or_walked_twice(name, tile):
    for n, padded_n in ((200, 208), (256, 256), (520, 528)):
        config = QuantizeConfig(operand=name, n=n, padded_n=padded_n, padded_m_multiple=4)
        plan = TokenPlan(config, CPU, tile=RowTile(*tile))
        check(plan, config, 5)
        check(plan, config, 9, kind="mixed")


@pytest.mark.parametrize("name", ["fp8_tensor", "fp8_tensor_pow2", "int8_tensor"])
def test_the_scale_of_a_matrix_does_not_depend_on_how_it_is_cut(name):
    config = QuantizeConfig(operand=name, n=300, padded_n=320, padded_m_multiple=4)
    for rows, block in ((1, 128), (2, 512)):
        plan = TensorPlan(config, CPU, tile=MatrixTile(rows, block, 4))
        for m in (0, 6):
            check(plan, config, m)
        check(plan, config, 9, kind="rising")
        check(plan, config, 9, kind="nan")


def test_programs_that_take_several_tiles_miss_none_of_them(monkeypatch):
    monkeypatch.setattr(tensor, "PARTS", 4)
    config = QuantizeConfig(operand="fp8_tensor", n=384)
    plan = TensorPlan(config, CPU, tile=MatrixTile(1, 128, 4))
    x = make_matrix("normal", 9, 384, "bf16", magnitude=1.0, seed=1, device="cpu")
    for row in range(9):
        for column in (0, 200, 383):
            one = x.clone()
            one[row, column] = 1000.0
            got = plan.outputs.new(9, x.device)
            plan.run(Source.of(one), got, None)
            assert got.scales.item() == quantize(one, config).scales.item(), (row, column)


@pytest.mark.parametrize("name", ["fp8_tensor_static", "int8_tensor_static"])
@pytest.mark.parametrize("scale", [2.0**-130, 2.0**-100, 0.013, 2.0**125])
def test_a_given_scale_of_any_size_gives_the_codes_of_a_division(name, scale):
    config = QuantizeConfig(operand=name, n=300, in_dtype="fp32", padded_n=320)
    plan = TensorPlan(config, CPU, tile=MatrixTile(2, 256, 4))
    given = torch.tensor([scale])
    for kind in ("normal", "mixed", "wide"):
        check(plan, config, 9, kind=kind, scale=given)


@pytest.mark.skipif(RELEASE < (3, 9), reason="its interpreter rounds a fused multiply-add twice")
@pytest.mark.parametrize("scale", [2.0**-149, 1.7e-30, AWKWARD_SCALE, 2.0**126 * 1.3])
@pytest.mark.parametrize("name", ["fp8_tensor_static", "int8_tensor_static"])
def test_the_form_that_gpus_take_gives_the_codes_of_a_division_by_any_scale(name, scale):
    for dtype, how in (
        ("bf16", GUARDED_ONCE),
        ("fp16", GUARDED_ONCE),
        ("fp32", GUARDED_TWICE),
    ):
        config = QuantizeConfig(operand=name, n=256, in_dtype=dtype)
        plan = TensorPlan(config, CPU, tile=MatrixTile(4, 256, 4), how=how)
        for kind in ("normal", "mixed", "wide", "signed_zeros"):
            for magnitude in (1.0, scale, 300 * scale):
                check(plan, config, 9, kind, torch.tensor([scale]), magnitude)
        check(plan, config, 9, "ties", torch.tensor([scale]), scale)


@pytest.mark.parametrize(
    ("name", "plan_of"),
    [
        ("fp8_group128", lambda c: GroupPlan(c, CPU, tile=Tile(2, 4, 4))),
        ("fp8_token", lambda c: TokenPlan(c, CPU, tile=RowTile(2, 256, 4))),
        ("fp8_tensor", lambda c: TensorPlan(c, CPU, tile=MatrixTile(2, 512, 4))),
    ],
)
def test_tiles_that_lie_in_the_padding_read_nothing_of_what_stands_beside_x(
    name, plan_of, monkeypatch
):
    read = []
    load = InterpreterBuilder.create_masked_load

    def spy(self, ptrs, mask, *rest):
        read.append(ptrs.data[mask.data])
        return load(self, ptrs, mask, *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_masked_load", spy)
    config = QuantizeConfig(operand=name, n=512, padded_n=1536)
    x = make_matrix("normal", 5, 512, "bf16", magnitude=1.0, seed=3, device="cpu")
    wide = torch.full((5, 2048), torch.nan, dtype=x.dtype)
    wide[:, :512] = x
    plan = plan_of(config)
    got = plan.outputs.new(5, x.device)
    plan.run(Source.of(wide[:, :512]), got, None)
    compare_quantized(got, quantize(x, config)).require(name)
    offsets = (np.concatenate(read).astype(np.int64) - wide.data_ptr()) // 2
    inside = offsets[(offsets >= 0) & (offsets < wide.numel())]
    assert inside.size >= x.numel()
    assert (inside % 2048 < 512).all(), "read beside x"


def test_an_output_of_the_callers_that_begins_at_an_odd_address_is_written():
    config = QuantizeConfig(operand="fp8_group128", n=256)
    plan = GroupPlan(config, CPU)
    x = make_matrix("normal", 5, 256, "bf16", magnitude=1.0, seed=1, device="cpu")
    out = plan.outputs.new(5, x.device)
    shifted = torch.empty(5 * 256 + 1, dtype=torch.uint8)[1:].view(out.data.dtype).view(5, 256)
    moved = type(out)(shifted, out.scales, None, out.operand, out.layout, out.logical_shape)
    plan.run(Source.of(x), moved, None)
    compare_quantized(moved, quantize(x, config)).require("a shifted output")
