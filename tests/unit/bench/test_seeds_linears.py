"""The two seeds of linears: what each way does in a call, and that all give the same y."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from quantmux.bench.effort import Effort
from quantmux.bench.seeds.experiment import SeedCase
from quantmux.bench.seeds.linears import LinearCopies
from quantmux.bench.seeds.padded_weights import (
    AT_LOAD,
    COPIED,
    DENSE,
    EVERY_CALL,
    OURS,
    SAME_PRODUCT,
    SHAPES,
    PaddedWeights,
)
from quantmux.bench.seeds.padded_weights_ways import PadsAtLoad, PadsEveryCall, padding_way
from quantmux.bench.seeds.placeholder import EMPTY, LAYERS, NONE, ONES, PlaceholderScale
from quantmux.bench.seeds.ratios import with_ratios
from quantmux.bench.seeds.rows import SeedRow
from quantmux.bench.seeds.stage import Stage
from quantmux.config import LinearConfig, QuantizeConfig
from quantmux.runtime.context import default_context

M = 3


class Ops(TorchDispatchMode):
    """Counts the operations that are dispatched."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def ops_of(call):
    call()  # what is done once is not asked here
    with Ops() as seen:
        call()
    return seen.counts


@pytest.fixture
def stage(cpu):
    effort = Effort(rounds=2, rotate_bytes=1, max_copies=1, round_us=50.0)
    return Stage(default_context(), cpu, effort, "tiny")


def padded(stage, n, k, *, bias=False):
    config = LinearConfig(
        out_features=n, in_features=k, scheme="fp8_channel_token", bias=bias,
        contiguous_output=True,
    )  # fmt: skip
    return LinearCopies(config, stage)


def made_of(experiment, stage, case=None):
    prepared = experiment.prepare(case or experiment.cases(stage)[0], stage)
    return {variant.name: variant.make() for variant in prepared.variants}


@pytest.mark.parametrize(
    ("n", "k", "bias"),
    [(48, 32, False), (40, 32, False), (48, 24, True), (36, 20, True), (1, 16, False)],
)
def test_both_ways_of_padding_give_the_linears_own_y_in_contiguous_rows(stage, n, k, bias):
    linear = padded(stage, n, k, bias=bias)
    inputs = linear.materials.inputs(M, 1)
    ys = []
    for way in (PadsEveryCall, PadsAtLoad):
        made = padding_way(linear, inputs, way)
        ys.append(made.calls[0]())
        checked = made.compare(ys[-1])
        assert checked.ok, checked.reason
        assert ys[-1].shape == (M, n)
        assert ys[-1].is_contiguous()
    assert torch.equal(*ys)


def test_a_way_of_padding_that_is_wrong_is_seen(stage):
    linear = padded(stage, 36, 20, bias=True)
    made = padding_way(linear, linear.materials.inputs(M, 1))
    assert not made.compare(made.calls[0]() * 1.1).ok


@pytest.mark.parametrize(
    ("n", "k", "bias", "every_call", "at_load"),
    [
        (48, 32, True, 0, 0),  # nothing to pad
        (48, 24, False, 2, 1),  # the weight and x
        (40, 32, False, 2, 0),  # the weight and its scales
        (36, 20, True, 4, 2),  # both, and the bias
    ],
)
def test_what_is_padded_in_a_call_is_what_each_way_pads(stage, n, k, bias, every_call, at_load):
    linear = padded(stage, n, k, bias=bias)
    inputs = linear.materials.inputs(M, 1)
    x = inputs[0].args[0]
    quantize = stage.producer(QuantizeConfig(operand=linear.config.scheme.activation, n=k)).call
    own = ops_of(lambda: quantize(x))["constant_pad_nd"]  # the reference's quantizer pads, too
    for way, pads in ((PadsEveryCall, every_call), (PadsAtLoad, at_load)):
        seen = ops_of(padding_way(linear, inputs, way).calls[0])["constant_pad_nd"]
        assert seen - own == pads


def test_the_seed_pads_weights_with_zeros_and_their_scales_with_ones(stage):
    linear = padded(stage, 36, 20)
    quantize = stage.producer(QuantizeConfig(operand=linear.config.scheme.activation, n=20))
    weight, scales = PadsAtLoad(linear.config, linear.materials.weights, quantize.call)._ready()
    assert (weight.shape, weight.stride()) == ((32, 48), (1, 32))
    assert not weight.T.float()[36:].any()
    assert not weight.T.float()[:, 20:].any()
    assert torch.equal(weight.T.float()[:36, :20], linear.materials.weights.data.float())
    assert scales.shape == (1, 48)
    assert (scales[0, 36:] == 1).all()


def test_weights_are_read_on_every_call_by_the_one_way_only(stage):
    linear = padded(stage, 36, 20)
    inputs = linear.materials.inputs(M, 1)
    every, load = (padding_way(linear, inputs, way).calls[0] for way in (PadsEveryCall, PadsAtLoad))
    before = load()
    linear.materials.weights.data.view(torch.uint8).zero_()
    assert not every().any()
    assert torch.equal(load(), before)


def test_ours_pads_nothing_in_a_call_and_agrees(stage):
    found = made_of(PaddedWeights(), stage, SeedCase("", {"n": 36, "k": 20, "m": M, "bias": True}))
    assert found[OURS].compare(found[OURS].calls[0]()).ok
    pads = {name: ops_of(made.calls[0])["constant_pad_nd"] for name, made in found.items()}
    assert pads[EVERY_CALL] - pads[OURS] == 4
    assert pads[AT_LOAD] - pads[OURS] == 2


def test_a_width_that_is_no_multiple_of_eight_is_shown_with_contiguous_rows_too(stage):
    experiment = PaddedWeights()
    found = made_of(experiment, stage, SeedCase("", {"n": 36, "k": 20, "m": M, "bias": True}))
    for name in (COPIED, DENSE):
        y = found[name].calls[0]()
        assert found[name].compare(y).ok
        assert y.is_contiguous()
    even = made_of(experiment, stage, SeedCase("", {"n": 40, "k": 20, "m": M, "bias": True}))
    assert not {COPIED, DENSE} & set(even)


def test_what_contiguous_rows_cost_is_said():
    def row(kernel, kind, us):
        return SeedRow("padded_weights", "a", kernel, kind, facts={"m": 4096}, us=us)

    rows = with_ratios([row(EVERY_CALL, "before", 80.0), row(AT_LOAD, "seed", 60.0),
                        row(OURS, "ours", 30.0), row(DENSE, "ours", 120.0)])  # fmt: skip
    (said,) = PaddedWeights().remarks(rows, None)
    assert said.endswith("before 0.67 to 0.67 x its time, the seed 0.50 to 0.50 x")


def test_what_padding_alone_gains_is_told_from_the_product():
    def case(m, ours, same, copied=None):
        given = [(EVERY_CALL, "before", 40.0), (AT_LOAD, "seed", 20.0), (OURS, "ours", ours),
                 (SAME_PRODUCT, "ours", same)]  # fmt: skip
        given += [(COPIED, "ours", copied)] if copied else []
        return with_ratios([
            SeedRow("padded_weights", f"M={m}", name, kind, facts={"m": m}, us=us)
            for name, kind, us in given
        ])  # fmt: skip

    alone, few, dense, *_ = PaddedWeights().remarks(
        [*case(1, 4.0, 20.0), *case(4096, 10.0, 80.0, 40.0)], None
    )
    assert "all M, geomean over 2 cases" in alone
    assert alone.endswith("before/ours 1.00 (0.50 to 2.00), seed/ours 0.50 (0.25 to 1.00)")
    assert few.endswith("before/ours 2.00 (2.00 to 2.00), seed/ours 1.00 (1.00 to 1.00)")
    assert "in 1 cases): before/ours 3.16 (1.00 to 10.00), seed/ours 1.58" in dense


def test_the_shapes_are_the_reports_and_one_of_them_has_nothing_to_pad(stage):
    cases = PaddedWeights().cases(replace(stage, size="full"))
    assert len(cases) == len(SHAPES) * 5
    control = {(c.facts["n"], c.facts["k"]) for c in cases if c.is_control}
    assert control == {(2048, 1376)}


def test_remarks_are_of_few_rows_and_of_the_control():
    def row(m, kernel, kind, us, *, control=False):
        return SeedRow("padded_weights", f"M={m}{control}", kernel, kind, facts={"m": m}, us=us,
                       host_us=10 * us, is_control=control)  # fmt: skip

    rows = [
        *with_ratios([row(16, EVERY_CALL, "before", 40.0), row(16, AT_LOAD, "seed", 20.0),
                      row(16, OURS, "ours", 10.0)]),
        *with_ratios([row(4096, EVERY_CALL, "before", 900.0), row(4096, OURS, "ours", 1.0)]),
        *with_ratios([row(1, EVERY_CALL, "before", 30.3, control=True),
                      row(1, AT_LOAD, "seed", 30.0, control=True)]),
    ]  # fmt: skip
    every, load, control = PaddedWeights().remarks(rows, None)
    assert "takes 4.00 x the time of ours (4.00 at least), 4.00 x its host time" in every
    assert "takes 2.00 x" in load
    assert control.endswith("before/seed 1.01")


def test_the_placeholder_is_filled_made_or_not_there_and_y_is_the_same(stage):
    experiment = PlaceholderScale()
    case = experiment.cases(stage)[0]
    found, linears = made_of(experiment, stage, case), case.facts["linears"]
    tensors = {}
    for name in (ONES, EMPTY, NONE):
        made = found[name]
        assert made.compare(made.calls[0]()).ok
        counts = ops_of(made.calls[0])
        tensors[name] = {op: counts[op] for op in ("new_ones", "new_empty")}
    assert tensors == {
        ONES: {"new_ones": linears, "new_empty": 0},
        EMPTY: {"new_ones": 0, "new_empty": linears},
        NONE: {"new_ones": 0, "new_empty": 0},
    }


def test_one_wrong_linear_of_the_chain_is_seen(stage):
    made = made_of(PlaceholderScale(), stage)[NONE]
    first, second = made.calls[0]()
    assert made.compare((first, second)).ok
    assert not made.compare((first, second * 1.1)).ok
    assert not made.compare((first * 1.1, second)).ok


def test_a_machine_without_a_product_that_quantizes_inside_says_so(stage):
    assert "no kernel here quantizes inside" in made_of(PlaceholderScale(), stage)[ONES].note


def test_fills_are_told_from_other_kernels_and_a_step_is_all_layers():
    experiment = PlaceholderScale()
    case = SeedCase("", {"linears": 5})
    fill = "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<c10::BFlo"
    row = SeedRow("placeholder", "", ONES, "before", us=100.0, launches=15,
                  launched={fill: 5, "scale_1x128_kernel": 5, "fp8_gemm_kernel": 5})  # fmt: skip
    found = experiment.enrich(case, row)
    assert found == {"per_linear": 3.0, "fills": 1.0, "step_ms": pytest.approx(LAYERS * 0.1)}
    assert experiment.enrich(case, replace(row, launched={"fp8_gemm_kernel": 5}))["fills"] == 0


def test_the_gain_of_a_step_is_said_with_the_step_in_which_it_is_the_reports(stage):
    times = ((ONES, "before", 105.0), (EMPTY, "seed", 101.0), (NONE, "ours", 100.0))
    rows = with_ratios(
        [SeedRow("placeholder", "5 linears M=1", name, kind, us=us) for name, kind, us in times]
    )
    first, second = PlaceholderScale().remarks(rows, replace(stage, size="full"))
    assert "synthetic" in first
    assert "305 calls × 1.00 µs = 0.30 ms a step less" in second
    assert second.endswith("which is 2 % of a step of 15 ms")
