"""What a layer's config shrinks to, and that every kernel of the torch backend agrees on that."""

import pytest
import torch

from quantmux.capability.capability import Capability, OperandOffer, SchemeOffer
from quantmux.capability.detect import HERE_CPU
from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.config import (
    InverseRopeQuantizeConfig,
    LinearConfig,
    QuantizeConfig,
    RelayoutConfig,
    RmsNormQuantizeConfig,
    RopeQuantizeConfig,
    SiluMulQuantizeConfig,
)
from quantmux.config.layouts import Layout
from quantmux.config.schemes import SCHEMES
from quantmux.dispatch.join import input_of
from quantmux.ops.quantize.reference import quantize
from quantmux.registry.default import default_registry
from quantmux.registry.kernel_spec import KernelSpec
from quantmux.runtime.context import Context
from quantmux.runtime.quarantine import Quarantine
from quantmux.runtime.self_check_case import small_cases
from quantmux.runtime.self_check_run import run_case

LAYER = LinearConfig(in_features=7168, out_features=2112, scheme="fp8_block128", bias=True)


def consumer(config=LAYER, veto=None, layouts=("row_major",), **limits):
    scheme = config.scheme
    reads = OperandOffer.of(scheme.activation, layouts)
    pair = SchemeOffer(weight=OperandOffer.of(scheme.weight, ("row_major",)), activation=reads)
    limits = {"takes_bias": True, "accumulations": ("fast", "exact"), **limits}
    capability = Capability(arch=("any",), schemes=(pair,), **limits)
    spec = KernelSpec("a/x", "linear", capability, "a:b", veto=veto)
    (given, *_) = input_of(capability, reads, scheme.activation, config.k, config.in_dtype)
    return spec, given


def shrunk(config=LAYER, **limits):
    spec, reads = consumer(config, **limits)
    return small_cases(spec, config, HERE_CPU, reads)


def test_all_but_the_extents_stays_and_the_second_case_lies_off_the_tile():
    first, second = shrunk()
    for case in (first, second):
        same = {"in_features": 7168, "out_features": 2112}
        assert case.config.replace(**same) == LAYER
        assert case.reads.n == case.config.k
    assert (first.config.n, first.config.k, first.m) == (256, 256, 9)
    assert (second.config.n % 128, second.config.k % 128) == (5, 5)
    assert (first.kind, second.kind) == ("normal", "outliers")


def test_alignments_and_pads_hold():
    first, second = shrunk(align_n=64, align_k=128, pad_n_to=128, pad_k_to=256, pad_m_to=4)
    assert (first.config.n, first.config.k) == (256, 256)
    assert (second.config.n, second.config.k) == (320, 384)
    assert second.reads.layout == Layout(scales="row_major", padded_n=512, padded_m_multiple=4)


@pytest.mark.parametrize(
    ("limits", "ms"),
    [
        ({}, (9, 35)),
        ({"m_min": 17}, (17, 35)),
        ({"m_min": 64}, (65, 65)),
        ({"m_max": 8}, (8, 8)),
        ({"m_max": 16}, (9, 16)),
        ({"m_multiple": 8}, (16, 40)),
        ({"m_multiple": 128}, (128, 128)),
        ({"m_min": 1, "m_max": 1}, (1, 1)),
    ],
)
def test_m_is_legal_and_has_a_tail_where_it_can(limits, ms):
    assert tuple(case.m for case in shrunk(**limits)) == ms


def test_a_veto_on_small_shapes_is_climbed_over():
    def veto(config, _device):
        if config.k >= 1000:
            return None
        return Rejection(RejectionCode.VETO, "in_features", ">= 1000", str(config.k))

    first, _ = shrunk(veto=veto)
    assert first.config.k == 1024


def test_what_can_serve_nothing_small_is_not_checked():
    def veto(config, _device):
        if config.k >= 7168:
            return None
        return Rejection(RejectionCode.VETO, "in_features", ">= 7168", str(config.k))

    huge = LAYER.replace(out_features=8192)
    assert shrunk(huge, veto=veto) == ()
    # the layer itself is taken where it is small enough
    assert shrunk(LAYER.replace(out_features=512), veto=veto)[0].config.k == 7168


def test_a_plugins_own_layout_is_not_checked():
    own = QuantizeConfig(operand="fp8_token", n=64).layout.replace(scales="a:tiles")
    config = QuantizeConfig(operand="fp8_token", n=64, layout=own)
    offer = OperandOffer.of(config.operand, ("a:tiles",))
    spec = KernelSpec("a/x", "quantize", Capability(arch=("any",), produces=(offer,)), "a:b")
    assert small_cases(spec, config, HERE_CPU, None) == ()


def test_layers_of_one_kind_share_their_cases():
    spec, reads = consumer()
    one = small_cases(spec, LAYER, HERE_CPU, reads)
    other = LAYER.replace(in_features=512, out_features=4096)
    _, narrower = consumer(other)
    assert small_cases(spec, other, HERE_CPU, narrower) == one
    assert small_cases(spec, LAYER.replace(out_dtype="fp32"), HERE_CPU, reads) != one


PADDED = QuantizeConfig(operand="fp8_group128", n=1368, layout="col_major", padded_n=1536)
CONFIGS = [
    *(LinearConfig(in_features=264, out_features=136, scheme=name) for name in SCHEMES),
    *(LinearConfig(in_features=264, out_features=136, scheme=n, bias=True) for n in SCHEMES),
    QuantizeConfig(operand="fp8_token", n=264),
    QuantizeConfig(operand="fp8_tensor_static", n=264),
    QuantizeConfig(operand="nvfp4", n=264, layout="swizzled_128x4", padded_n=320),
    QuantizeConfig(operand="int8_token", n=264),
    PADDED,
    SiluMulQuantizeConfig(operand="fp8_group128_pow2", n=512, layout="packed_pow2"),
    InverseRopeQuantizeConfig(heads=128, head_dim=512, rope_dim=64, groups=16),
    RmsNormQuantizeConfig(operand="nvfp4", n=264, layout="swizzled_128x4", padded_n=320),
    RopeQuantizeConfig(heads=128, head_dim=192, rope_dim=64, rope_at="last", interleaved=True),
    RopeQuantizeConfig(heads=8, head_dim=128, rope_dim=128, static_scale=0.01),
    RelayoutConfig(
        operand="fp8_group128",
        n=1368,
        source=PADDED.layout,
        target=PADDED.layout.replace(scales="col_major_aligned4"),
    ),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_every_kernel_of_torch_that_serves_agrees(config):
    registry = default_registry()
    context = Context(registry, Quarantine())
    torch_only = {"order": ["torch"], "deny": ["acme*"]}
    selection = context.survey(config, HERE_CPU, call_overrides=torch_only)
    assert selection.is_served
    found = 0
    for choice in selection.ranges:
        for pipeline in choice.candidates:
            *head, last = pipeline.steps
            reads = head[-1].config if head else None
            for step, given in (*((s, None) for s in head), (last, reads)):
                cases = small_cases(step.kernel, step.config, HERE_CPU, given)
                assert len(cases) == 2
                for case in cases:
                    kernel = context.load(step.kernel)
                    assert run_case(case, step.kernel, kernel, HERE_CPU) < 0.05
                    found += 1
    assert found


def test_the_torch_gemm_of_the_host_writes_into_rows_that_lie_apart():
    # torch itself writes a strided out as if its rows were contiguous
    config = LinearConfig(in_features=64, out_features=69, scheme="fp8_tensor_static")
    registry = default_registry()
    context = Context(registry, Quarantine())
    kernel = context.load(registry.get("torch/linear_scaled_mm_cpu"))
    from quantmux.ops.linear.spec import make_inputs
    from quantmux.ops.spec import Case

    x, weights = make_inputs(Case(config, 5), "cpu", 0).args
    producer = QuantizeConfig(operand=config.scheme.activation, n=64)
    q = quantize(x, producer, scale=weights.input_scale)
    run = kernel.bind(config, kernel.prepare(weights, config, HERE_CPU), HERE_CPU)
    storage = torch.full((5, 72), 7.0, dtype=torch.bfloat16)
    assert torch.equal(run(q, out=storage[:, :69]), run(q))
    assert (storage[:, 69:] == 7.0).all()
