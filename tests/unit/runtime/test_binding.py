import pytest
import torch

from quantmux.capability.detect import HERE_CPU
from quantmux.config import QuantizeConfig
from quantmux.errors import (
    BuildError,
    DtypeError,
    InputError,
    LaunchError,
    LayoutError,
    ShapeError,
)
from quantmux.ops.linear.reference import linear
from quantmux.ops.quantize.reference import quantize
from quantmux.runtime.binding import bind, bind_producer
from quantmux.runtime.events import stats


@pytest.fixture
def small_and_big(shop):
    """Two consumers on one weight layout, one for M up to 4, one for the rest."""
    shop.producer("one/quantize")
    shop.consumer("one/small", m_max=4)
    shop.consumer("two/big", m_min=5)
    return shop


def reference(shop, x):
    return linear(x, shop.weights(), shop.config)


def test_gives_what_the_reference_gives_for_every_m(small_and_big):
    shop = small_and_big
    context = shop.context()
    bound = bind(shop.select(context), shop.weights(), context=context)
    for m in (0, 1, 4, 5, 33):
        x = shop.x(m)
        assert torch.equal(bound(x), reference(shop, x))
    assert bound.pipeline_for(4).main.id == "one/small"
    assert bound.pipeline_for(5).main.id == "two/big"
    assert bound.events == ()
    assert stats()["events"] == []


def test_calls_its_kernels_once_per_call_and_prepares_each_form_once(small_and_big):
    shop = small_and_big
    fault = shop.consumer("three/never", compute="emulated")
    context = shop.context()
    bound = bind(shop.select(context), shop.weights(), context=context)
    kernels = {
        name: getattr(shop.module, name).fault.calls
        for name in vars(shop.module)
        if "_" in name and hasattr(getattr(shop.module, name), "fault")
    }
    for m in (2, 2, 9):
        bound(shop.x(m))
    assert kernels["one_small"]["run"] == 2
    assert kernels["two_big"]["run"] == 1
    assert kernels["one_quantize"]["run"] == 3
    assert kernels["one_small"]["prepare"] + kernels["two_big"]["prepare"] == 1
    assert fault.calls["prepare"] == fault.calls["run"] == 0


def test_writes_into_out(small_and_big):
    shop = small_and_big
    context = shop.context()
    bound = bind(shop.select(context), shop.weights(), context=context)
    out = torch.full((7, 48), 7.0, dtype=torch.bfloat16)
    assert bound(shop.x(7), out) is out
    assert torch.equal(out, reference(shop, shop.x(7)))


def test_takes_a_quantized_x_that_the_consumer_reads(small_and_big):
    shop = small_and_big
    context = shop.context()
    bound = bind(shop.select(context), shop.weights(), context=context)
    reads = bound.input_layout(7)
    assert reads.operand.name == "fp8_token"
    q = quantize(shop.x(7), reads)
    producer = shop.module.one_quantize.fault.calls["run"]
    assert torch.equal(bound(q), bound(shop.x(7)))
    assert shop.module.one_quantize.fault.calls["run"] == producer + 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"operand": "fp8_tensor"}, "block"),
        ({"operand": "int8_token"}, "element"),
        ({"padded_n": 48}, "padded_n"),
        ({"padded_m_multiple": 8}, "padded_m_multiple"),
    ],
)
def test_refuses_a_quantized_x_in_another_layout_naming_both(small_and_big, change, named):
    shop = small_and_big
    context = shop.context()
    bound = bind(shop.select(context), shop.weights(), context=context)
    given = QuantizeConfig(**{"operand": "fp8_token", "n": 32, **change})
    with pytest.raises(LayoutError) as caught:
        bound(quantize(shop.x(7), given))
    text = str(caught.value)
    assert "fp8_token row_major padded_n=32" in text
    assert str(given.layout) in text
    assert given.operand.name in text
    assert named in text
    assert stats()["run"] == 0


def test_refuses_a_quantized_x_of_another_width_or_broken_tensors(small_and_big):
    shop = small_and_big
    context = shop.context()
    bound = bind(shop.select(context), shop.weights(), context=context)
    wide = quantize(
        torch.zeros(7, 64, dtype=torch.bfloat16), QuantizeConfig(operand="fp8_token", n=64)
    )
    with pytest.raises(ShapeError, match="32"):
        bound(wide)
    from dataclasses import replace

    good = quantize(shop.x(7), bound.input_layout(7))
    with pytest.raises(DtypeError):
        bound(replace(good, data=good.data.view(torch.uint8)))
    with pytest.raises(ShapeError):
        bound(replace(good, scales=good.scales[:-1]))
    assert stats()["events"] == []


def test_the_caller_s_mistake_blames_no_kernel(small_and_big):
    shop = small_and_big
    context = shop.context()
    bound = bind(shop.select(context), shop.weights(), context=context)
    with pytest.raises(DtypeError):
        bound(shop.x(7).to(torch.float32))
    with pytest.raises(ShapeError):
        bound(shop.x(7)[:, :31])
    with pytest.raises(ShapeError, match="out"):
        bound(shop.x(7), torch.empty(6, 48, dtype=torch.bfloat16))
    with pytest.raises(InputError, match="meta"):
        bound(shop.x(7).to("meta"))
    assert stats()["events"] == []
    assert bound.pipeline_for(7).main.id == "two/big"


def test_an_m_outside_the_selection_is_refused(small_and_big):
    shop = small_and_big
    context = shop.context()
    bound = bind(shop.select(context, m=8), shop.weights(), context=context)
    assert torch.equal(bound(shop.x(8)), reference(shop, shop.x(8)))
    assert bound(shop.x(0)).shape == (0, 48)
    with pytest.raises(ShapeError, match="M = 9"):
        bound(shop.x(9))
    with pytest.raises(ShapeError, match="M = 7"):
        bound(shop.x(7))


def test_a_gap_between_ranges_is_refused(shop):
    shop.producer("one/quantize")
    shop.consumer("one/small", m_max=4)
    shop.consumer("two/big", m_min=9)
    context = shop.context()
    bound = bind(shop.select(context), shop.weights(), context=context)
    with pytest.raises(ShapeError, match="M = 6"):
        bound(shop.x(6))
    assert torch.equal(bound(shop.x(9)), reference(shop, shop.x(9)))


def test_warmup_warms_each_range_with_its_ms_and_runs_once(small_and_big):
    shop = small_and_big
    context = shop.context()
    bound = bind(shop.select(context), shop.weights(), context=context)
    bound.warmup([1, 3, 16])
    assert shop.module.one_small.fault.calls["warmup"] == [(1, 3)]
    assert shop.module.two_big.fault.calls["warmup"] == [(16,)]
    assert shop.module.one_small.fault.calls["run"] == 2
    assert shop.module.two_big.fault.calls["run"] == 1


def test_a_producer_of_its_own_is_bound_and_called(shop, silu_config):
    shop.producer("one/silu", op="silu_mul_quantize")
    context = shop.context()
    selection = context.select(silu_config, HERE_CPU)
    bound = bind_producer(selection, context=context)
    x = torch.randn(3, 64).to(torch.bfloat16)
    q = bound(x)
    assert q.logical_shape == (3, 32)
    assert torch.equal(bound(x, out=q).data.view(torch.uint8), q.data.view(torch.uint8))
    with pytest.raises(ShapeError):
        bound(x[:, :63])
    assert stats()["events"] == []


def test_two_weight_forms_are_held_where_the_policy_allows_them(shop):
    shop.producer("one/quantize")
    shop.consumer("one/small", layout="one:a", form="lossless", m_max=4)
    shop.consumer("one/any", layout="one:b", form="lossless", compute="emulated")
    for copies, held in ((1, 1), (2, 2)):
        context = shop.context(weight_copies=copies)
        bound = bind(shop.select(context), shop.weights(), context=context)
        assert len(bound.store.layouts) == held
        assert bound.store.kept is None
        for m in (3, 9):
            assert torch.equal(bound(shop.x(m)), reference(shop, shop.x(m)))
    assert bound.pipeline_for(3).main.id == "one/small"
    assert bound.pipeline_for(9).main.id == "one/any"


@pytest.fixture
def relaid(shop):
    """The consumer reads what no producer writes: a relayout stands between."""
    shop.config = shop.config.replace(scheme="fp8_block128", in_dtype="fp16", out_dtype="fp16")
    shop.producer("one/quantize")
    shop.consumer("one/linear", reads=("col_major_aligned4",))
    return shop


def test_a_relayout_between_producer_and_consumer_is_called(relaid):
    relaid.mover("one/move", "row_major", "col_major_aligned4")
    context = relaid.context()
    bound = bind(relaid.select(context), relaid.weights(), context=context)
    assert bound.pipeline_for(7).ids == ("one/quantize", "one/move", "one/linear")
    x = relaid.x(7).half()
    assert torch.equal(bound(x), reference(relaid, x))
    reads = bound.input_layout(7)
    assert (reads.layout.scales, reads.in_dtype) == ("col_major_aligned4", "fp16")
    assert torch.equal(bound(quantize(x, reads)), reference(relaid, x))
    with pytest.raises(LayoutError, match="row_major"):
        bound(quantize(x, reads.replace(layout="row_major")))


def test_a_relayout_that_raises_is_replaced_alone(relaid):
    relaid.mover("one/move", "row_major", "col_major_aligned4", run=lambda _: OSError("no"))
    relaid.mover("two/move", "row_major", "col_major_aligned4")
    context = relaid.context(order=("one", "two"), fallback={"run": "silent"})
    bound = bind(relaid.select(context), relaid.weights(), context=context)
    x = relaid.x(7).half()
    assert torch.equal(bound(x), reference(relaid, x))
    assert bound.pipeline_for(7).ids == ("one/quantize", "two/move", "one/linear")
    assert "one/move raised" in bound.events[0].reason


def test_bind_refuses_what_is_not_a_linear_or_not_served(shop, silu_config):
    shop.producer("one/silu", op="silu_mul_quantize")
    shop.consumer("one/linear")
    context = shop.context()
    with pytest.raises(BuildError, match="bind_producer"):
        bind(context.select(silu_config, HERE_CPU), shop.weights(), context=context)
    with pytest.raises(BuildError, match="nothing can serve"):
        bind(context.survey(shop.config, HERE_CPU), shop.weights(), context=context)


def test_wrong_weights_are_the_caller_s_mistake_not_the_kernel_s(shop):
    from dataclasses import replace

    shop.producer("one/quantize")
    shop.consumer("one/linear", prepare=RuntimeError("bad shape"))
    context = shop.context()
    weights = replace(shop.weights(), scales=shop.weights().scales[:-1])
    with pytest.raises(ShapeError, match="scales"):
        bind(shop.select(context), weights, context=context)
    assert context.quarantine.entries() == ()


def test_a_launch_error_tells_of_every_kernel_that_failed(shop):
    shop.producer("one/quantize")
    shop.consumer("one/a", run=lambda _: RuntimeError("first"))
    shop.consumer("two/b", run=lambda _: RuntimeError("second"))
    context = shop.context(fallback={"run": "silent"})
    bound = bind(shop.select(context), shop.weights(), context=context)
    with pytest.raises(LaunchError) as caught:
        bound(shop.x(3))
    assert "first" in str(caught.value)
    assert "second" in str(caught.value)
