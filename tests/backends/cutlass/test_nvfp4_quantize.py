"""The NVFP4 quantizer's device code, run on the host, against the reference: to the bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from tests.backends.cutlass.nvfp4_host import HOST, HostQuantizer, compiled_for_host
from torch.nn import functional

from quantmux.config import QuantizeConfig
from quantmux.config.layouts import Layout
from quantmux.ops.numerics import encode_e2m1
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.quantized import DTYPES
from quantmux_cutlass.quantize.self_test import disagreement

if TYPE_CHECKING:
    from quantmux.config.formats import Dtype

pytestmark = pytest.mark.nvcc

LAYOUTS = ("row_major", "swizzled_128x4", "swizzled_8x4")
DTYPE_NAMES = ("bf16", "fp16", "fp32")
SHAPES = {  # (M, n, padded_n, padded_m_multiple)
    "one block": (1, 16, 16, 1),
    "one row": (1, 1000, 1008, 1),
    "odd width": (5, 100, 128, 1),
    "partial tile": (33, 1000, 1024, 8),
    "rows padded by a tile": (7, 50, 64, 128),
    "a row into the next tile": (129, 24, 32, 1),
    "several tiles": (300, 520, 528, 1),
    "padding wider than a program": (3, 16, 2112, 1),
}
OPTIONS = ((0, 0), (11, 257), (10, 131), (5, 66), (13, 258))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> HostQuantizer:
    return compiled_for_host(tmp_path_factory.mktemp("nvfp4"))


def config_of(
    n: int, padded_n: int, rows: int, layout: str, dtype: Dtype, *, given: bool
) -> QuantizeConfig:
    return QuantizeConfig(
        operand="nvfp4_static" if given else "nvfp4",
        n=n,
        layout=Layout(scales=layout, padded_n=padded_n, padded_m_multiple=rows),
        in_dtype=dtype,
    )


def assert_same_bits(
    library: HostQuantizer,
    x: torch.Tensor,
    config: QuantizeConfig,
    g: torch.Tensor | None,
    options: tuple[int, ...] = (0, 0),
) -> None:
    want = quantize(x, config, global_scale=g)
    run = library.bound(config, options)
    out = run(x, global_scale=g)
    out.data.fill_(0xA5)
    out.scales.view(torch.uint8).fill_(0x5A)
    made = run(x, global_scale=g, out=out)
    assert made is out
    assert made.global_scale is not None
    assert want.global_scale is not None
    assert torch.equal(made.global_scale, want.global_scale)
    assert torch.equal(made.scales.view(torch.uint8), want.scales.view(torch.uint8))
    # codes of blocks that hold NaN or Inf are not specified
    unspecified = torch.zeros(want.data.shape, dtype=torch.bool)
    lost = functional.pad(~torch.isfinite(x.float()), (0, config.layout.padded_n - config.n))
    blocks = lost.view(x.shape[0], -1, 16).any(2)
    unspecified[: x.shape[0]] = blocks.repeat_interleave(8, 1)
    different = (made.data != want.data) & ~unspecified
    assert not bool(different.any()), different.nonzero()[0].tolist()


def values(kind: str, m: int, n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(m * 31 + n)
    x = torch.randn(m, n, generator=generator)
    if kind == "blocks of all sizes":  # scales subnormal, quotients far above 6
        size = torch.randint(-26, 4, (m, -(-n // 16)), generator=generator).float()
        x *= torch.exp2(size).repeat_interleave(16, 1)[:, :n]
    elif kind == "ties":
        x = torch.randint(-24, 25, (m, n), generator=generator) * 0.25
    elif kind == "special":
        for value in (float("nan"), float("inf"), 0.0, -0.0, 1e-30, -6e4):
            x.view(-1)[torch.randint(0, x.numel(), (1 + x.numel() // 200,))] = value
    return x


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPE_NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_stored_byte_is_the_references(
    library: HostQuantizer, shape: str, dtype: Dtype, layout: str
) -> None:
    m, n, padded_n, rows = SHAPES[shape]
    for g in (None, torch.tensor([0.01])):
        config = config_of(n, padded_n, rows, layout, dtype, given=g is not None)
        x = values("random", m, n).to(DTYPES[dtype])
        for options in OPTIONS:
            assert_same_bits(library, x, config, g, options)


@pytest.mark.parametrize("kind", ["blocks of all sizes", "ties", "special"])
@pytest.mark.parametrize("g", [None, 1.0, 0.0004, 1e-30, 3e20, 2.0**-140])
@pytest.mark.parametrize("dtype", DTYPE_NAMES)
def test_unusual_values_and_global_scales_give_the_references_bits(
    library: HostQuantizer, kind: str, g: float | None, dtype: Dtype
) -> None:
    x = values(kind, 40, 328).to(DTYPES[dtype])
    given = None if g is None else torch.tensor([g])
    config = config_of(328, 336, 1, "swizzled_128x4", dtype, given=given is not None)
    assert_same_bits(library, x, config, given)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("m", [1, 2, 8, 30, 31, 32, 33, 96, 127, 128, 129, 160])
def test_scales_of_rows_that_do_not_exist_are_zero(
    library: HostQuantizer, m: int, layout: str
) -> None:
    config = config_of(272, 272, 1, layout, "bf16", given=True)
    x = values("random", m, 272).to(torch.bfloat16)
    for options in OPTIONS:
        assert_same_bits(library, x, config, torch.tensor([0.02]), options)


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
def test_any_strides_and_addresses_are_read(library: HostQuantizer, dtype: Dtype) -> None:
    x = values("random", 24, 144).to(DTYPES[dtype])
    config = config_of(144, 160, 1, "swizzled_8x4", dtype, given=False)
    wide = torch.full((24, 331), float("nan"), dtype=x.dtype)
    views = {
        "gaps between rows": wide[:, :144],
        "columns apart": wide[:, 1:289:2],
        "one element further": wide.view(-1)[1 : 24 * 144 + 1].view(24, 144),
        "transposed": torch.empty(144, 24, dtype=x.dtype).t(),
        "the same row again": x[:1].expand(24, 144),
    }
    for view in views.values():
        if view.stride(0):
            wide.fill_(float("nan"))
            view.copy_(x)
        assert_same_bits(library, view, config, None)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("m", "n"), [(1100, 1592), (1100, 1600), (10100, 1592)])
def test_the_forms_for_more_and_for_many_blocks_give_the_same_bits(
    library: HostQuantizer, m: int, n: int, layout: str
) -> None:
    x = values("random", m, n).to(torch.bfloat16)
    config = config_of(n, 1616, 1, layout, "bf16", given=True)
    assert_same_bits(library, x, config, torch.tensor([0.01]))


def test_every_fp32_near_a_tie_gets_the_references_code(library: HostQuantizer) -> None:
    ties = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0])
    bits = ties.view(torch.int32)[:, None] + torch.arange(-300, 301, dtype=torch.int32)
    near = bits.clamp(min=0).view(torch.float32).reshape(-1)
    want = encode_e2m1(near)
    below = near < 7
    for value, code in zip(near[below].tolist(), want[below].tolist(), strict=True):
        assert library.handle.qm_plain_code_of(value) == code, value
        assert library.handle.qm_code_of(-value) == code | 8, value
    for value in (6.0, 6.5, 7.0, 8.0, 1e30, float("inf")):
        assert library.handle.qm_code_of(value) == 7
    assert library.handle.qm_code_of(float("nan")) == 0


def test_products_replace_divisions_to_the_bit(library: HostQuantizer) -> None:
    generator = torch.Generator().manual_seed(3)
    a = torch.rand(4000, generator=generator) + 1
    for value, want in zip(a.tolist(), (a / torch.tensor(6.0)).tolist(), strict=True):
        assert library.handle.qm_sixth(value) == want
    codes = torch.arange(1, 127, dtype=torch.uint8)
    scales = codes.view(torch.float8_e4m3fn).float()
    for value in a[:100]:
        wanted = (value / scales).tolist()
        for code, want in zip(codes.tolist(), wanted, strict=True):
            assert library.handle.qm_multiplier(code, float(value)) == want


@pytest.mark.parametrize("divisor", [1, 2, 3, 7, 28, 447, 448, 449, 65537, 2**25 // 16])
def test_quotients_of_places_are_exact(library: HostQuantizer, divisor: int) -> None:
    near = {k * divisor + d for k in (0, 1, 2, 3, 1000) for d in (-1, 0, 1)}
    top = 2**31 - 1
    near |= {top, top - 1, top // divisor * divisor, top // divisor * divisor - 1}
    for n in (n for n in near if 0 <= n <= top):
        assert library.handle.qm_quotient(n, divisor) == n // divisor


def test_the_self_test_accepts_what_is_right(library: HostQuantizer) -> None:
    assert disagreement(library, HOST) is None  # type: ignore[arg-type] - a double of the library
