"""The roofline model, against numbers worked out by hand."""

import pytest

from quantmux.bench.traffic import work
from quantmux.config import (
    InverseRopeQuantizeConfig,
    LinearConfig,
    QuantizeConfig,
    RelayoutConfig,
    RmsNormQuantizeConfig,
    RopeQuantizeConfig,
    SiluMulQuantizeConfig,
    default_layout,
    operand,
)

H200 = {"copy_gb_s": 4268.0, "fp8_tflops": 1450.0, "bf16_tflops": 768.0}


def linear(scheme, n=4096, k=7168, **more):
    return LinearConfig(out_features=n, in_features=k, scheme=scheme, **more)


def test_a_row_scaled_gemm_moves_codes_scales_and_output():
    m, n, k = 16, 4096, 7168
    found = work(linear("fp8_channel_token"), m, "gemm")
    assert found.moved == m * k + n * k + 2 * m * n + 4 * (m + n)
    assert found.flops == 2 * m * n * k
    assert found.rate == "fp8"


def test_a_block_scaled_gemm_has_a_scale_for_every_block():
    m, n, k = 128, 4096, 7168
    found = work(linear("fp8_block128"), m, "gemm")
    assert found.moved == m * k + n * k + 2 * m * n + 4 * m * k // 128 + 4 * n * k // 128**2


def test_nvfp4_weights_are_half_a_byte_and_a_sixteenth():
    m, n, k = 16, 4096, 7168
    found = work(linear("nvfp4_w4a16"), m)
    assert found.moved == n * k * (0.5 + 1 / 16) + 2 * m * k + 2 * m * n
    assert found.rate == "bf16"


def test_a_pipeline_reads_a_plain_x():
    m, n, k = 16, 4096, 7168
    found = work(linear("fp8_channel_token"), m)
    assert found.moved == 2 * m * k + n * k + 2 * m * n + 4 * n


def test_a_bias_and_a_wide_output_count():
    m, n = 16, 4096
    plain, wide = work(linear("fp8_tensor"), m), work(linear("fp8_tensor", out_dtype="fp32"), m)
    assert wide.moved - plain.moved == 2 * m * n
    assert work(linear("fp8_tensor", bias=True), m).moved - plain.moved == 2 * n


def test_a_kernel_that_computes_in_16_bit_is_held_to_that_rate():
    assert work(linear("fp8_tensor"), 16, native=False).rate == "bf16"
    assert work(linear("int8_channel_token"), 16).rate == "int8"
    assert work(linear("nvfp4"), 16).rate == "fp4"


def test_a_group_quantizer_moves_three_bytes_and_a_scale():
    m, k = 8192, 7168
    found = work(QuantizeConfig(operand="fp8_group128", n=k), m)
    assert found.moved == m * k * (2 + 1 + 4 / 128)
    assert found.flops == 0


def test_pad_rows_of_aligned_scales_are_written():
    m, k = 5, 1024
    config = QuantizeConfig(operand="fp8_group128", n=k, layout="col_major_aligned4")
    assert work(config, m).moved == m * k * 3 + 8 * (k // 128) * 4


def test_silu_mul_reads_twice_the_width():
    m, n = 2048, 4096
    found = work(SiluMulQuantizeConfig(operand="fp8_group128", n=n), m)
    assert found.moved == m * n * (4 + 1 + 4 / 128)


def test_nvfp4_codes_are_half_a_byte_and_their_scale_one():
    m, k = 128, 7168
    assert work(QuantizeConfig(operand="nvfp4", n=k), m).moved == m * k * (2 + 0.5 + 1 / 16)


def test_inverse_rope_moves_heads_positions_and_a_row_of_the_table():
    t, heads = 1024, 64
    config = InverseRopeQuantizeConfig(heads=heads, head_dim=512, rope_dim=64, groups=8)
    assert work(config, t).moved == t * heads * (1024 + 512 + 16) + t * (8 + 256)


def test_rope_moves_heads_positions_a_row_of_the_table_and_a_scale():
    t, heads = 1024, 32
    config = RopeQuantizeConfig(heads=heads, head_dim=128, rope_dim=64)
    moved = t * heads * 128 * 3 + t * (8 + 256)
    assert work(config, t).moved == moved + 4
    assert work(config.replace(static_scale=1.0), t).moved == moved


def test_a_norm_moves_its_weight_too():
    config = RmsNormQuantizeConfig(operand="fp8_token", n=4096)
    moved = 64 * 4096 * 3 + 64 * 4 + 4096 * 2
    assert work(config, 64).moved == moved
    assert work(config.replace(fp32_weight=True), 64).moved == moved + 4096 * 2


def test_a_relayout_moves_scales_and_data_only_where_that_is_padded_anew():
    fmt = operand("fp8_group128")
    base = default_layout(fmt, 1024)
    move = RelayoutConfig(operand=fmt, n=1024, source=base, target=base.replace(scales="col_major"))
    assert work(move, 16).moved == 2 * 16 * 8 * 4
    pad = RelayoutConfig(operand=fmt, n=1024, source=base, target=base.replace(padded_n=1152))
    assert work(pad, 16).moved == 16 * 8 * 4 + 16 * 9 * 4 + 2 * 16 * 1024


@pytest.mark.parametrize(
    ("n", "k", "m", "floor"),
    # the floors of the measured table: bytes at 4268 GB/s, or operations at 1450 TFLOP/s
    [
        (2112, 7168, 16, 3.6),
        (576, 7168, 1, 1.0),
        (7168, 16384, 64, 28.0),
        (4096, 7168, 1024, 41.5),
        (28672, 4096, 4096, 663.5),
    ],
)
def test_floors_are_those_worked_out_for_an_h200(n, k, m, floor):
    found = work(linear("fp8_tensor", n, k), m, "gemm").floor_us(H200)
    assert found == pytest.approx(floor, abs=0.06)


def test_a_rate_that_was_not_measured_is_bounded_by_the_highest_that_was():
    todo = work(linear("int8_channel_token"), 4096, "gemm")
    assert todo.floor_us(H200) == pytest.approx(todo.flops / 1450e12 * 1e6)


def test_there_is_no_floor_without_a_copy_rate():
    assert work(linear("fp8_tensor"), 16).floor_us({}) is None
