"""A producer is fused where it offers exactly what is read; else the very field says why not."""

from dataclasses import replace

import pytest

from quantmux.capability.detect import HERE_CPU
from quantmux.capability.evidence import Evidence, EvidenceLevel
from quantmux.capability.rejection import RejectionCode as Code
from quantmux.config import LinearConfig, QuantizeConfig, operand, scheme
from quantmux.config.policy import Policy
from quantmux.config.policy_context import use_policy
from quantmux.runtime.binding import bind_producer
from quantmux.runtime.traced.keys import LinearProgram, keep_producer
from quantmux.runtime.traced.legality import quantizer_segments, segments
from quantmux.runtime.traced.prologue import Prologue

SILU = Prologue("silu_mul", "bf16")
NORM = Prologue("rmsnorm", "bf16", norm_eps=1e-6)
NONE = Prologue("none", "bf16")
GROUPS = ("row_major", "col_major", "col_major_aligned4")
NVFP4 = ("row_major", "swizzled_128x4", "swizzled_8x4")


def one(parts):
    (part,) = parts
    return part


# What the consumer reads, what a producer offers, and the limit that must be named.
LIMITS = {
    "pow2 scales": (
        "fp8_block128_pow2",
        "fp8_group128_pow2",
        GROUPS,
        {},
        {"offer": {"roundings": ("none",)}},
        (Code.SCALE_ROUNDING, "scale_rounding"),
    ),
    "aligned scales": (
        "fp8_block128",
        "fp8_group128",
        ("col_major_aligned4",),
        {},
        {"layouts": ("row_major", "col_major")},
        (Code.LAYOUT, "layout"),
    ),
    "packed scales": (
        "fp8_block128_pow2",
        "fp8_group128_pow2",
        ("packed_pow2",),
        {},
        {"layouts": GROUPS},
        (Code.LAYOUT, "layout"),
    ),
    "swizzled scales": (
        "nvfp4_dynamic",
        "nvfp4",
        ("swizzled_128x4",),
        {},
        {"layouts": ("row_major", "swizzled_8x4")},
        (Code.LAYOUT, "layout"),
    ),
    "columns padded": (
        "fp8_channel_token",
        "fp8_token",
        ("row_major",),
        {"pad_k_to": 256},
        {"takes_padded_n": False},
        (Code.PADDED_N, "padded_n"),
    ),
    "rows padded": (
        "fp8_channel_token",
        "fp8_token",
        ("row_major",),
        {"pad_m_to": 4},
        {"takes_padded_m": False},
        (Code.PADDED_M, "padded_m_multiple"),
    ),
    "block": (
        "fp8_block128",
        "fp8_group128",
        ("row_major",),
        {},
        {"operand": "fp8_group64"},
        (Code.OPERAND, "block"),
    ),
    "element": (
        "fp8_channel_token",
        "fp8_token",
        ("row_major",),
        {},
        {"operand": "int8_token"},
        (Code.OPERAND, "element"),
    ),
    "static scale": (
        "fp8_tensor_static",
        "fp8_tensor_static",
        ("scalar",),
        {},
        {"offer": {"scale_modes": ("dynamic",)}},
        (Code.OPERAND, "dynamic"),
    ),
    "static global scale": (
        "nvfp4",
        "nvfp4_static",
        ("row_major",),
        {},
        {"offer": {"global_scales": ("dynamic",)}},
        (Code.GLOBAL_SCALE, "global_scale"),
    ),
    "eps": (
        scheme("fp8_channel_token").replace(activation=operand("fp8_token").replace(eps=1e-6)),
        operand("fp8_token").replace(eps=1e-6),
        ("row_major",),
        {},
        {"offer": {"any_eps": False}},
        (Code.EPS, "eps"),
    ),
    "scale_ub": (
        scheme("fp8_channel_token").replace(activation=operand("fp8_token").replace(scale_ub=9.0)),
        operand("fp8_token").replace(scale_ub=9.0),
        ("row_major",),
        {},
        {"offer": {"takes_scale_ub": False}},
        (Code.SCALE_UB, "scale_ub"),
    ),
    "input format": (
        "fp8_channel_token",
        "fp8_token",
        ("row_major",),
        {},
        {"in_dtypes": ("fp16",)},
        (Code.IN_DTYPE, "in_dtype"),
    ),
    "width": (
        "fp8_channel_token",
        "fp8_token",
        ("row_major",),
        {},
        {"align_k": 96},
        (Code.ALIGN_K, "n"),
    ),
}


def shop(kit, case, prologue, **limited):
    name, made, layouts, reads, _, _ = case
    kit.consumer("a/linear", name, layouts, **reads)
    kit.producer("a/quantize", made, layouts)
    offered = {"operand": made, "layouts": layouts, **limited}
    kit.producer("a/fused", offered.pop("operand"), offered.pop("layouts"), prologue.op, **offered)
    return kit.context()


@pytest.mark.parametrize("prologue", [SILU, NORM], ids=["silu_mul", "rmsnorm"])
@pytest.mark.parametrize("case", LIMITS.values(), ids=LIMITS)
def test_what_is_offered_is_fused(kit, program, case, prologue):
    part = one(segments(prologue, [program(shop(kit, case, prologue), case[0])]))
    assert part.is_fused
    (group,) = part.groups
    (consumer,) = part.consumers
    assert group.config.operand == consumer.reads.operand
    assert group.config.layout == consumer.reads.layout
    assert part.refusals == ()


@pytest.mark.parametrize("prologue", [SILU, NORM], ids=["silu_mul", "rmsnorm"])
@pytest.mark.parametrize("case", LIMITS.values(), ids=LIMITS)
def test_what_is_not_offered_is_refused_by_its_name(kit, program, case, prologue):
    context = shop(kit, case, prologue, **case[4])
    part = one(segments(prologue, [program(context, case[0])]))
    assert not part.is_fused
    assert {(r.rejection.code, r.rejection.field) for r in part.refusals} == {case[5]}
    assert {r.who for r in part.refusals} == {"a/fused"}


def token(kit, *, fused=True, **consumer):
    kit.consumer("a/linear", "fp8_channel_token", ("row_major",), **consumer)
    kit.producer("a/quantize", "fp8_token", ("row_major",))
    if fused:
        kit.producer("a/fused", "fp8_token", ("row_major",), "silu_mul_quantize")


def test_no_kernel_of_the_op_is_a_reason(kit, program):
    token(kit, fused=False)
    part = one(segments(SILU, [program(kit.context(), "fp8_channel_token")]))
    (refusal,) = part.refusals
    assert refusal.rejection.code == Code.NO_PRODUCER


def test_a_reference_does_not_stand_for_a_quantizer(kit, program):
    token(kit, fused=False)
    kit.producer("b/fused", "fp8_token", ("row_major",), "silu_mul_quantize", is_reference=True)
    part = one(segments(SILU, [program(kit.context(), "fp8_channel_token")]))
    assert not part.is_fused
    (refusal,) = part.refusals
    assert "reference" in refusal.rejection.required


def test_a_reference_stands_for_a_reference(kit, program):
    kit.consumer("a/linear", "fp8_channel_token", ("row_major",))
    kit.producer("a/quantize", "fp8_token", ("row_major",), is_reference=True)
    kit.producer("a/fused", "fp8_token", ("row_major",), "silu_mul_quantize", is_reference=True)
    assert one(segments(SILU, [program(kit.context(), "fp8_channel_token")])).is_fused


@pytest.mark.parametrize("tag", ["approximate", "experimental"])
def test_a_kernel_of_less_worth_does_not_stand_for_one_of_more(kit, program, tag):
    token(kit, fused=False)
    more = {"tags": frozenset({tag})}
    if tag == "approximate":
        more["rel_tolerance"] = 0.01
    kit.producer("b/fused", "fp8_token", ("row_major",), "silu_mul_quantize", **more)
    part = one(segments(SILU, [program(kit.context(), "fp8_channel_token")]))
    assert not part.is_fused
    assert tag in part.refusals[-1].rejection.required


def test_the_policy_of_the_pass_decides_on_producers(kit, program):
    token(kit)
    asked = program(kit.context(), "fp8_channel_token")
    part = one(segments(SILU, [asked], Policy(deny=("a/fused",))))
    assert not part.is_fused
    (refusal,) = part.refusals
    assert refusal.rejection.code == Code.DENIED
    assert one(segments(SILU, [asked])).is_fused


def of_policy(context, **policy):
    """Give the program of a linear that was bound with a policy of its own."""
    asked = LinearConfig(in_features=128, out_features=32, scheme="fp8_channel_token")
    selection = context.select(asked, HERE_CPU, call_overrides=Policy(**policy))
    return LinearProgram(str(policy), selection, context, None, (), (), 32)


def refused(part):
    return {(r.who, r.rejection.code) for r in part.refusals}


@pytest.mark.parametrize("policy", [None, Policy(deny=("b/x",)), Policy(deny=())])
def test_what_a_layer_denies_is_not_taken_whatever_the_pass_says(kit, program, policy):
    token(kit)
    context = kit.context()
    part = one(segments(SILU, [of_policy(context, deny=("a/fused",))], policy))
    assert not part.is_fused
    assert refused(part) == {("a/fused", Code.DENIED)}
    assert "the layer's own policy" in part.refusals[0].rejection.required
    assert one(segments(SILU, [program(context, "fp8_channel_token")], policy)).is_fused


def test_the_policy_that_a_layer_was_bound_under_holds_for_producers_too(kit):
    token(kit)
    context = kit.context()
    with use_policy(deny=["a/fused"]):
        asked = of_policy(context)
    assert refused(one(segments(SILU, [asked]))) == {("a/fused", Code.DENIED)}


def test_behind_a_producer_that_a_layer_denies_the_next_is_taken(kit):
    token(kit)
    kit.producer("b/fused", "fp8_token", ("row_major",), "silu_mul_quantize")
    context = kit.context()
    asked = [of_policy(context, deny=("a/fused",)), of_policy(context)]
    for programs in (asked[:1], asked, asked[::-1]):
        (group,) = one(segments(SILU, programs)).groups
        assert group.selection.kernels == ("b/fused",)
        assert group.members == tuple(range(len(programs)))


@pytest.mark.parametrize("turned", [False, True])
def test_layers_of_which_one_denies_the_producer_are_not_fused(kit, turned):
    token(kit)
    context = kit.context()
    asked = [of_policy(context, deny=("a/fused",)), of_policy(context)]
    part = one(segments(SILU, asked[::-1] if turned else asked))
    assert not part.is_fused
    assert refused(part) == {("a/fused", Code.DENIED)}


def test_layers_that_allow_no_producer_in_common_are_fed_by_one_each(kit):
    token(kit)
    kit.producer("b/fused", "fp8_token", ("row_major",), "silu_mul_quantize")
    context = kit.context()
    denied = (("a/fused",), ("b/fused",), ("a/fused",))
    part = one(segments(SILU, [of_policy(context, deny=deny) for deny in denied]))
    assert [(g.members, g.selection.kernels) for g in part.groups] == [
        ((0, 2), ("b/fused",)),
        ((1,), ("a/fused",)),
    ]


def test_a_layer_that_denies_the_quantizer_of_the_others_does_not_share_it(kit):
    token(kit, fused=False)
    kit.producer("b/quantize", "fp8_token", ("row_major",))
    context = kit.context()
    denied = ((), ("a/quantize",), (), ("b/quantize",))
    part = one(segments(NONE, [of_policy(context, deny=deny) for deny in denied]))
    assert [g.members for g in part.groups] == [(0, 2)]
    assert refused(part) == {("a/quantize", Code.DENIED), ("b/quantize", Code.DENIED)}


def test_the_evidence_that_a_layer_requires_is_required_of_the_producer(kit, monkeypatch):
    token(kit)
    context = kit.context()
    proof = Evidence(EvidenceLevel.VERIFIED)
    known = replace(context.inventory(HERE_CPU), evidence={"a/linear": proof, "a/quantize": proof})
    monkeypatch.setattr(context, "inventory", lambda _: known)
    asked = [of_policy(context), of_policy(context, require_evidence="verified")]
    assert one(segments(SILU, asked[:1])).is_fused
    for programs in (asked[1:], asked):
        part = one(segments(SILU, programs, Policy(require_evidence="declared")))
        assert not part.is_fused
        assert refused(part) == {("a/fused", Code.EVIDENCE)}


def test_a_quantizer_that_a_layer_forces_is_not_replaced(kit):
    token(kit)
    context = kit.context()
    forced = of_policy(context, force="a/quantize")
    assert refused(one(segments(SILU, [forced]))) == {("silu_mul_quantize", Code.NOT_FORCED)}
    assert one(segments(NONE, [forced, forced])).is_fused
    # a backend that a linear forces binds the linear only
    kit.specs = [s for s in kit.specs if s.id != "a/fused"]
    kit.producer("b/fused", "fp8_token", ("row_major",), "silu_mul_quantize")
    assert one(segments(SILU, [of_policy(kit.context(), force="a")])).is_fused


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        ({"deny": ("a/fused",)}, Code.DENIED),
        ({"force": "a/quantize"}, Code.NOT_FORCED),
        ({"force": "a"}, None),
    ],
)
def test_the_policy_of_a_quantizer_holds_for_what_stands_for_it(kit, policy, code):
    token(kit)
    context = kit.context()
    config = QuantizeConfig(operand="fp8_token", n=128)
    selection = context.select(config, HERE_CPU, call_overrides=Policy(**policy))
    asked = keep_producer(bind_producer(selection, context=context), context)
    part = one(quantizer_segments(SILU, asked))
    assert part.is_fused == (code is None)
    assert {c for _, c in refused(part)} == ({code} if code else set())


@pytest.mark.parametrize("backend", ["a", "b"])
def test_a_backend_that_a_quantizer_forces_is_that_of_what_stands_for_it(kit, backend):
    kit.producer("a/quantize", "fp8_token", ("row_major",))
    kit.producer(f"{backend}/fused", "fp8_token", ("row_major",), "silu_mul_quantize")
    context = kit.context()
    config = QuantizeConfig(operand="fp8_token", n=128)
    selection = context.select(config, HERE_CPU, call_overrides=Policy(force="a"))
    asked = keep_producer(bind_producer(selection, context=context), context)
    part = one(quantizer_segments(SILU, asked))
    assert part.is_fused == (backend == "a")


def test_the_order_of_a_layer_orders_its_producers_unless_the_pass_says_another(kit):
    token(kit)
    kit.producer("b/fused", "fp8_token", ("row_major",), "silu_mul_quantize")
    asked = of_policy(kit.context(), order=("b", "a"))

    def taken(policy=None):
        (group,) = one(segments(SILU, [asked], policy)).groups
        return group.selection.ranges[0].pipeline.main.id

    assert taken() == "b/fused"
    assert taken(Policy(order=("a", "b"))) == "a/fused"


def test_a_producer_does_not_stand_for_the_better_quantizer_of_another_layer(kit):
    token(kit, fused=False)
    kit.producer("b/quantize", "fp8_token", ("row_major",), is_reference=True)
    kit.producer("b/fused", "fp8_token", ("row_major",), "silu_mul_quantize", is_reference=True)
    context = kit.context()
    lesser, better = of_policy(context, deny=("a/quantize",)), of_policy(context)
    assert one(segments(SILU, [lesser])).is_fused
    assert not one(segments(SILU, [lesser, better])).is_fused


def test_a_segment_is_refused_alone(kit, program):
    kit.consumer("a/small", "fp8_channel_token", ("row_major",), m_max=64)
    kit.consumer("b/large", "fp8_channel_token", ("row_major",), m_min=65, pad_k_to=256)
    kit.producer("a/quantize", "fp8_token", ("row_major",))
    kit.producer("a/fused", "fp8_token", ("row_major",), "silu_mul_quantize", takes_padded_n=False)
    asked = program(kit.context(weight_copies=2), "fp8_channel_token")
    small, large = segments(SILU, [asked])
    assert (small.m_min, small.m_max, large.m_min, large.m_max) == (1, 64, 65, None)
    assert small.is_fused
    assert not large.is_fused
    (refusal,) = large.refusals
    assert refusal.rejection.m_min == 65


def test_a_producer_that_serves_only_some_rows_leaves_the_others(kit, program):
    token(kit, fused=False)
    kit.producer("a/fused", "fp8_token", ("row_major",), "silu_mul_quantize", m_max=100)
    part = one(segments(SILU, [program(kit.context(), "fp8_channel_token")]))
    assert not part.is_fused
    (refusal,) = part.refusals
    assert refusal.rejection.code == Code.M_RANGE


def test_producers_that_leave_some_rows_between_them_are_not_enough(kit, program):
    token(kit, fused=False)
    for name, limits in (("a/few", {"m_max": 16}), ("a/many", {"m_min": 64})):
        kit.producer(name, "fp8_token", ("row_major",), "silu_mul_quantize", **limits)
    assert not one(segments(SILU, [program(kit.context(), "fp8_channel_token")])).is_fused


def two(kit, **second):
    """The winner quantizes inside, the next reads a quantized x."""
    kit.consumer("a/inside", "fp8_channel_token", None, inside=True)
    kit.consumer("b/linear", "fp8_channel_token", ("row_major",), **second)
    kit.producer("b/quantize", "fp8_token", ("row_major",))
    kit.producer("b/fused", "fp8_token", ("row_major",), "silu_mul_quantize")


def test_a_consumer_that_quantizes_inside_is_traded_for_one_that_reads(kit, program):
    two(kit)
    part = one(segments(SILU, [program(kit.context(), "fp8_channel_token")]))
    assert part.is_fused
    (consumer,) = part.consumers
    assert consumer.pipeline.main.id == "b/linear"
    assert consumer.instead_of.main.id == "a/inside"


@pytest.mark.parametrize(
    "second",
    [
        {"weight_layout": "b:other"},
        {"compute": "emulated"},
        {"m_max": 64},
        {"tags": frozenset({"experimental"})},
        {"rel_tolerance": 0.05},
    ],
    ids=["other weights", "lower tier", "some rows", "experimental", "less exact"],
)
def test_nothing_worse_is_traded_for(kit, program, second):
    two(kit, **second)
    parts = segments(SILU, [program(kit.context(weight_copies=2), "fp8_channel_token")])
    assert not any(part.is_fused for part in parts)
    assert all("plain" in part.refusals[-1].rejection.actual for part in parts)


def test_no_reference_is_reason_for_a_trade(kit, program):
    kit.consumer("a/inside", "fp8_channel_token", None, inside=True)
    kit.consumer("b/linear", "fp8_channel_token", ("row_major",))
    kit.producer("b/quantize", "fp8_token", ("row_major",), is_reference=True)
    kit.producer("b/fused", "fp8_token", ("row_major",), "silu_mul_quantize", is_reference=True)
    assert not one(segments(SILU, [program(kit.context(), "fp8_channel_token")])).is_fused


def test_without_a_prologue_nothing_is_traded(kit, program):
    two(kit)
    asked = program(kit.context(), "fp8_channel_token")
    part = one(segments(NONE, [asked, asked]))
    assert not part.is_fused
    assert [c.instead_of for c in part.consumers] == [None, None]


def test_linears_that_agree_share_and_the_others_do_not(kit, program):
    token(kit)
    kit.consumer("a/int8", "int8_channel_token", ("row_major",))
    kit.producer("a/quantize_int8", "int8_token", ("row_major",))
    context = kit.context()
    names = ("fp8_channel_token", "int8_channel_token", "fp8_channel_token")
    part = one(segments(NONE, [program(context, name) for name in names]))
    (group,) = part.groups
    assert group.members == (0, 2)
    (refusal,) = part.refusals
    assert refusal.who == "linear 1"
    assert refusal.rejection.field == "element"


def test_with_a_prologue_all_are_fed_or_none(kit, program):
    token(kit)
    kit.consumer("a/int8", "int8_channel_token", ("row_major",))
    kit.producer("a/quantize_int8", "int8_token", ("row_major",))
    context = kit.context()
    asked = [program(context, name) for name in ("fp8_channel_token", "int8_channel_token")]
    assert not one(segments(SILU, asked)).is_fused
    kit.producer("a/fused_int8", "int8_token", ("row_major",), "silu_mul_quantize")
    context = kit.context()
    asked = [program(context, name) for name in ("fp8_channel_token", "int8_channel_token")]
    part = one(segments(SILU, asked))
    assert [group.members for group in part.groups] == [(0,), (1,)]


@pytest.mark.parametrize("turned", [False, True])
def test_scales_of_another_rounding_are_not_shared(kit, program, turned):
    kit.consumer("a/pow2", "fp8_block128_pow2", ("row_major",))
    kit.consumer("a/none", "fp8_block128", ("row_major",))
    kit.producer(
        "a/quantize", "fp8_group128", ("row_major",), offer={"roundings": ("none", "pow2")}
    )
    context = kit.context()
    asked = [program(context, name) for name in ("fp8_block128", "fp8_block128_pow2")]
    part = one(segments(NONE, asked[::-1] if turned else asked))
    assert not part.is_fused
    assert {r.rejection.field for r in part.refusals} == {"scale_rounding"}
