from dataclasses import replace

import pytest
import torch

from quantmux.capability.profiles import CPU, PROFILES
from quantmux.config import QuantizeConfig, RelayoutConfig, SiluMulQuantizeConfig
from quantmux.errors import ConfigError, DtypeError, InputError, LayoutError, ShapeError
from quantmux.ops.quantized import QuantizedTensor
from quantmux.ops.spec import op_spec

OPS = (
    "quantize",
    "silu_mul_quantize",
    "inverse_rope_quantize",
    "rmsnorm_quantize",
    "rope_quantize",
    "relayout",
)


@pytest.mark.parametrize("op", OPS)
def test_every_small_case_is_bit_equal_to_the_reference_on_soiled_memory(op, kernel, bits, dirty):
    spec = op_spec(op)
    checked, wrong = 0, []
    for seed, case in enumerate(c for c in spec.cases() if c.is_small):
        call = spec.inputs(case, "cpu", seed)
        want = spec.reference(*call.args, case.config, **call.kwargs)
        run = kernel(op).loaded.bind(case.config, CPU)
        fresh = run(*call.args, **call.kwargs)
        out = dirty(want)
        reused = run(*call.args, **call.kwargs, out=out)
        assert reused.data.data_ptr() == out.data.data_ptr(), case
        checked += 1
        for got in (fresh, reused):
            got.check()
            pairs = zip(got.tensors(), want.tensors(), strict=True)
            if not all(torch.equal(bits(a), bits(b)) for a, b in pairs):
                wrong.append(str(case))
    assert checked > 50
    assert not wrong, wrong[:10]


@pytest.mark.parametrize("op", ["quantize", "silu_mul_quantize"])
@pytest.mark.parametrize("layout", ["row_major", "swizzled_128x4", "swizzled_8x4"])
def test_padding_is_zero_in_every_nvfp4_layout(op, layout, kernel, bits, dirty):
    kind = QuantizeConfig if op == "quantize" else SiluMulQuantizeConfig
    config = kind(operand="nvfp4", n=48, padded_n=128, layout=layout, padded_m_multiple=4)
    x = torch.full((5, 48 if op == "quantize" else 96), 3.0, dtype=torch.bfloat16)
    run = kernel(op).loaded.bind(config, CPU)
    got = run(x, out=dirty(run(x)))
    assert got.data.shape == (8, 64)
    assert got.data[:5, :24].ne(0).all()
    assert got.data[5:].eq(0).all()
    assert got.data[:, 24:].eq(0).all()
    assert bits(got.scales).ne(0).sum() == 5 * 3


def test_an_x_on_another_kind_of_device_is_refused(kernel):
    config = QuantizeConfig(operand="fp8_token", n=16)
    run = kernel("quantize").loaded.bind(config, PROFILES["h200"])
    with pytest.raises(InputError, match="bound for cuda"):
        run(torch.zeros(2, 16, dtype=torch.bfloat16))


def test_a_config_of_another_op_is_refused(kernel):
    config = QuantizeConfig(operand="fp8_token", n=16)
    for op in OPS[1:5]:
        with pytest.raises(ConfigError, match="QuantizeConfig"):
            kernel(op).loaded.bind(config, CPU)


def test_a_layout_of_another_backend_is_refused_when_bound(kernel):
    config = QuantizeConfig(operand="fp8_group128", n=128, layout="acme:tiles")
    with pytest.raises(LayoutError, match="acme:tiles"):
        kernel("quantize").loaded.bind(config, CPU)


def test_bad_calls_get_typed_errors(kernel):
    config = QuantizeConfig(operand="fp8_token", n=16)
    run = kernel("quantize").loaded.bind(config, CPU)
    with pytest.raises(ShapeError, match="wrong width"):
        run(torch.zeros(2, 15, dtype=torch.bfloat16))
    with pytest.raises(DtypeError, match="needs bf16"):
        run(torch.zeros(2, 16))
    with pytest.raises(InputError, match="computes its scales"):
        run(torch.zeros(2, 16, dtype=torch.bfloat16), scale=torch.ones(1))
    other = run(torch.zeros(3, 16, dtype=torch.bfloat16))
    with pytest.raises(ShapeError, match="out has another logical shape"):
        run(torch.zeros(2, 16, dtype=torch.bfloat16), out=other)


def test_a_static_scale_is_asked_for_and_used(kernel):
    config = QuantizeConfig(operand="fp8_tensor_static", n=16)
    run = kernel("quantize").loaded.bind(config, CPU)
    x = torch.full((2, 16), 4.0, dtype=torch.bfloat16)
    with pytest.raises(InputError, match="needs scale="):
        run(x)
    q = run(x, scale=torch.tensor([2.0]))
    assert q.data.to(torch.float32).eq(2.0).all()
    assert q.scales.tolist() == [2.0]


def test_relayout_refuses_a_matrix_in_another_layout_than_its_source(kernel):
    source = QuantizeConfig(operand="fp8_group128", n=256)
    target = QuantizeConfig(operand="fp8_group128", n=256, layout="col_major")
    config = RelayoutConfig(
        operand="fp8_group128", n=256, source=source.layout, target=target.layout
    )
    x = torch.randn(5, 256).to(torch.bfloat16)
    plain = kernel("quantize").loaded.bind(source, CPU)(x)
    run = kernel("relayout").loaded.bind(config, CPU)
    moved = run(plain)
    assert isinstance(moved, QuantizedTensor)
    assert torch.equal(moved.dequantize(), plain.dequantize())
    with pytest.raises(LayoutError, match="not in the source layout"):
        run(moved)
    with pytest.raises(LayoutError):
        run(replace(plain, operand=config.operand.replace(eps=1e-6)))


def test_no_rows_give_an_empty_matrix_of_the_right_widths(kernel):
    for name, layout in (("fp8_token", "row_major"), ("fp8_group128", "col_major_aligned4")):
        config = QuantizeConfig(operand=name, n=256, layout=layout)
        q = kernel("quantize").loaded.bind(config, CPU)(torch.empty(0, 256, dtype=torch.bfloat16))
        assert q.data.shape == (0, 256)
        assert q.logical_shape == (0, 256)
        q.check()
