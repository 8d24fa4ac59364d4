"""Selection over kernels that are data: what wins, and what the losers say."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from quantmux.capability.capability import Capability, OperandOffer
from quantmux.capability.evidence import Evidence, EvidenceLevel
from quantmux.capability.profiles import PROFILES
from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.config import LinearConfig, QuantizeConfig, operand
from quantmux.config.settings import Settings
from quantmux.dispatch import Inventory, Selection, Tier, select
from quantmux.errors import ForcedKernelError, NoKernelError
from quantmux.registry.kernel_spec import KernelSpec

Make = Callable[..., KernelSpec]
Ask = Callable[..., Selection]


def linear(scheme: str = "fp8_block128", n: int = 2112, k: int = 7168, **more: Any) -> LinearConfig:
    return LinearConfig(in_features=k, out_features=n, scheme=scheme, **more)


def codes(selection: Selection, kernel: str) -> list[str]:
    return [str(r.code) for r in selection.rejected[kernel]]


def ids(selection: Selection, m: int = 1) -> tuple[str, ...]:
    pipeline = selection.pipeline_for(m)
    return pipeline.ids if pipeline else ()


def test_a_linear_is_a_producer_and_a_consumer_joined_by_layout(
    producer: Make, consumer: Make, ask: Ask
) -> None:
    kernels = (
        producer("triton/q_row", "fp8_group128", ("row_major",)),
        producer("triton/q_col", "fp8_group128", ("col_major_aligned4",)),
        consumer("cutlass/gemm", "fp8_block128", ("col_major_aligned4",)),
    )
    assert ids(ask(linear(), *kernels)) == ("triton/q_col", "cutlass/gemm")


def test_a_consumer_that_quantizes_inside_needs_no_producer(consumer: Make, ask: Ask) -> None:
    inside = consumer("flashinfer/gemm", "fp8_block128", ("row_major",), inside=True)
    selection = ask(linear(), inside)
    assert ids(selection) == ("flashinfer/gemm",)
    assert selection.ranges[0].tier is Tier.NATIVE


def test_a_relayout_stands_between_when_nobody_writes_the_layout(
    producer: Make, consumer: Make, ask: Ask
) -> None:
    move = KernelSpec(
        "torch/relayout",
        "relayout",
        Capability(arch="any", relayouts=(("row_major", "col_major_aligned4"),)),
        "nowhere:nothing",
    )
    kernels = (
        producer("triton/q_row", "fp8_group128", ("row_major",)),
        move,
        consumer("cutlass/gemm", "fp8_block128", ("col_major_aligned4",)),
    )
    assert ids(ask(linear(), *kernels)) == ("triton/q_row", "torch/relayout", "cutlass/gemm")


def test_a_direct_pipeline_goes_before_a_relayout_of_an_earlier_backend(
    producer: Make, consumer: Make, ask: Ask
) -> None:
    move = KernelSpec(
        "torch/relayout",
        "relayout",
        Capability(arch="any", relayouts=(("*", "*"),)),
        "nowhere:nothing",
    )
    kernels = (
        producer("triton/q_row", "fp8_group128", ("row_major",)),
        move,
        consumer("cutlass/gemm", "fp8_block128", ("col_major_aligned4",)),
        consumer("triton/gemm", "fp8_block128", ("row_major",)),
    )
    assert ids(ask(linear(), *kernels)) == ("triton/q_row", "triton/gemm")


def test_without_a_producer_the_consumer_says_what_is_missing(consumer: Make, ask: Ask) -> None:
    selection = ask(linear(), consumer("cutlass/gemm", "fp8_block128", ("col_major_aligned4",)))
    assert not selection.is_served
    assert codes(selection, "cutlass/gemm") == ["no_producer"]
    assert "col_major_aligned4" in selection.rejected["cutlass/gemm"][0].required


def test_padding_of_the_consumer_becomes_padded_n_of_the_producer(
    producer: Make, consumer: Make, ask: Ask
) -> None:
    q = producer("triton/q", "fp8_token", ("row_major",))
    gemm = consumer("torch/gemm", "fp8_channel_token", ("row_major",), pad_k_to=16, pad_m_to=4)
    pipeline = ask(linear("fp8_channel_token", k=1368), q, gemm).pipeline_for(1)
    assert pipeline is not None
    config = pipeline.steps[0].config
    assert isinstance(config, QuantizeConfig)
    assert (config.n, config.padded_n, config.layout.padded_m_multiple) == (1368, 1376, 4)


def test_a_producer_that_cannot_pad_is_refused_with_padded_n(
    producer: Make, consumer: Make, ask: Ask
) -> None:
    q = producer("triton/q", "fp8_token", ("row_major",), takes_padded_n=False)
    gemm = consumer("torch/gemm", "fp8_channel_token", ("row_major",), pad_k_to=16)
    selection = ask(linear("fp8_channel_token", k=1368), q, gemm)
    assert [r.code for r in selection.producers["triton/q"]] == [RejectionCode.PADDED_N]


def test_a_reader_of_any_scales_takes_pow2_and_a_reader_of_pow2_takes_no_others(
    producer: Make, consumer: Make, ask: Ask
) -> None:
    plain = consumer("cutlass/plain", "fp8_block128", ("row_major",))
    strict = consumer("cutlass/pow2", "fp8_block128_pow2", ("row_major",))
    q = producer("triton/q", "fp8_group128", ("row_major",), offer={"roundings": ("none", "pow2")})
    assert ids(ask(linear("fp8_block128_pow2"), q, plain)) == ("triton/q", "cutlass/plain")
    selection = ask(linear("fp8_block128"), q, strict)
    assert not selection.is_served
    assert "scale_rounding" in selection.rejected["cutlass/pow2"][0].field


def test_a_producer_of_pow2_only_is_not_taken_for_unrounded_scales(
    producer: Make, consumer: Make, ask: Ask
) -> None:
    # legal to read, but the numbers would differ from every other producer's: a fallback may not
    q = producer("triton/q", "fp8_group128_pow2", ("row_major",))
    gemm = consumer("cutlass/gemm", "fp8_block128", ("row_major",))
    assert not ask(linear(), q, gemm).is_served


@pytest.mark.parametrize(
    ("capability", "config", "code"),
    [
        ({"arch": "90a"}, linear(), None),
        ({"arch": "100f"}, linear(), "arch"),
        ({"takes_bias": False}, linear(bias=True), "bias"),
        ({"align_n": 128}, linear(), "align_n"),
        ({"align_k": 1000}, linear(), "align_k"),
        ({"out_dtypes": ("bf16",)}, linear(out_dtype="fp16"), "out_dtype"),
        ({"accumulations": ("fast",)}, linear("fp8_block128+exact"), "accumulation"),
        ({"accumulations": ("exact",)}, linear("fp8_block128"), None),
        ({"output_row_multiple": 16}, linear(n=1000, contiguous_output=True), "output_stride"),
        ({"output_row_multiple": 16}, linear(n=1008, contiguous_output=True), None),
    ],
)
def test_each_declared_bound_is_kept(
    producer: Make,
    consumer: Make,
    ask: Ask,
    capability: dict[str, Any],
    config: LinearConfig,
    code: str | None,
) -> None:
    q = producer("triton/q", "fp8_group128", ("row_major",))
    gemm = consumer("cutlass/gemm", "fp8_block128", ("row_major",), **capability)
    selection = ask(config, q, gemm)
    assert selection.is_served is (code is None)
    if code is not None:
        assert codes(selection, "cutlass/gemm") == [code]


def test_every_unmet_bound_is_listed_not_only_the_first(
    producer: Make, consumer: Make, ask: Ask
) -> None:
    gemm = consumer("cutlass/gemm", "fp8_block128", ("row_major",), align_n=128, takes_bias=False)
    selection = ask(linear(bias=True), producer("t/q", "fp8_group128", ("row_major",)), gemm)
    assert codes(selection, "cutlass/gemm") == ["bias", "align_n"]


def test_a_lower_tier_never_shadows_a_higher_one(producer: Make, consumer: Make, ask: Ask) -> None:
    kernels = (
        producer("triton/q", "fp8_token", ("row_major",)),
        consumer("torch/reference", "fp8_channel_token", ("row_major",), is_reference=True),
        consumer("cutlass/marlin", "fp8_channel_token", None),
        consumer("cutlass/emulated", "fp8_channel_token", ("row_major",), compute="emulated"),
        consumer("torch/native", "fp8_channel_token", ("row_major",)),
    )
    selection = ask(linear("fp8_channel_token"), *kernels)
    tiers = [c.tier for c in selection.ranges[0].candidates]
    assert tiers == [Tier.NATIVE, Tier.EMULATED, Tier.WEIGHT_ONLY, Tier.REFERENCE]
    assert codes(selection, "cutlass/marlin") == ["outranked"]


def test_weight_only_needs_leave_to_change_numerics(consumer: Make, ask: Ask) -> None:
    marlin = consumer("cutlass/marlin", "fp8_channel_token", None)
    assert ask(linear("fp8_channel_token"), marlin).ranges[0].tier is Tier.WEIGHT_ONLY
    refused = ask(linear("fp8_channel_token"), marlin, allow_lossy="forbid")
    assert codes(refused, "cutlass/marlin") == ["lossy"]
    # the same kernel is native where the scheme itself leaves activations alone
    assert ask(linear("fp8_w8a16"), marlin, allow_lossy="forbid").ranges[0].tier is Tier.NATIVE


def test_experimental_kernels_stand_behind_all_others_of_their_tier(
    producer: Make, consumer: Make, ask: Ask
) -> None:
    kernels = (
        producer("triton/q", "fp8_group128", ("row_major",)),
        consumer("cutlass/new", "fp8_block128", ("row_major",), tags={"experimental"}),
        consumer("torch/old", "fp8_block128", ("row_major",)),
    )
    assert ids(ask(linear(), *kernels))[-1] == "torch/old"


def test_order_of_backends_decides_among_equals(producer: Make, consumer: Make, ask: Ask) -> None:
    kernels = (
        producer("triton/q", "fp8_group128", ("row_major",)),
        consumer("triton/a", "fp8_block128", ("row_major",)),
        consumer("cutlass/b", "fp8_block128", ("row_major",)),
    )
    assert ids(ask(linear(), *kernels))[-1] == "cutlass/b"
    assert ids(ask(linear(), *kernels, order=("triton", "cutlass")))[-1] == "triton/a"


def test_an_estimate_orders_the_kernels_of_its_own_backend_only(
    producer: Make, consumer: Make, ask: Ask
) -> None:
    def never_wins(*_: Any) -> float:
        return 1e9

    def cheap(*_: Any) -> float:
        return 1.0

    kernels = (
        producer("triton/q", "fp8_group128", ("row_major",)),
        consumer("cutlass/slow", "fp8_block128", ("row_major",), estimate=never_wins),
        consumer("cutlass/quick", "fp8_block128", ("row_major",), estimate=cheap),
        consumer("torch/other", "fp8_block128", ("row_major",), estimate=cheap),
    )
    assert ids(ask(linear(), *kernels))[-1] == "cutlass/quick"


def test_an_estimate_that_raises_puts_its_kernel_last_of_its_backend(
    producer: Make, consumer: Make, ask: Ask
) -> None:
    def broken(*_: Any) -> float:
        raise ZeroDivisionError

    kernels = (
        producer("triton/q", "fp8_group128", ("row_major",)),
        consumer("cutlass/a", "fp8_block128", ("row_major",), estimate=broken),
        consumer("cutlass/b", "fp8_block128", ("row_major",)),
    )
    assert ids(ask(linear(), *kernels))[-1] == "cutlass/b"


def test_a_veto_rejects_and_a_veto_that_raises_costs_only_its_kernel(
    producer: Make, consumer: Make, ask: Ask
) -> None:
    no = Rejection(code=RejectionCode.VETO, field="n", required="odd", actual="even")

    def refuse(*_: Any) -> Rejection:
        return no

    def broken(*_: Any) -> Rejection:
        raise RuntimeError("boom")

    def rubbish(*_: Any) -> Any:
        return "no"

    kernels = (
        producer("triton/q", "fp8_group128", ("row_major",)),
        consumer("cutlass/a", "fp8_block128", ("row_major",), veto=refuse),
        consumer("cutlass/b", "fp8_block128", ("row_major",), veto=broken),
        consumer("cutlass/c", "fp8_block128", ("row_major",), veto=rubbish),
        consumer("torch/d", "fp8_block128", ("row_major",)),
    )
    selection = ask(linear(), *kernels)
    assert ids(selection)[-1] == "torch/d"
    assert selection.rejected["cutlass/a"] == (no,)
    assert codes(selection, "cutlass/b") == ["plugin_error"]
    assert "boom" in selection.rejected["cutlass/b"][0].actual
    assert codes(selection, "cutlass/c") == ["plugin_error"]


def test_every_kernel_of_the_op_is_taken_or_rejected(
    producer: Make, consumer: Make, ask: Ask
) -> None:
    kernels = (
        producer("triton/q", "fp8_group128", ("row_major",)),
        consumer("cutlass/a", "fp8_block128", ("row_major",), arch="100f"),
        consumer("cutlass/b", "fp8_block128", ("row_major",), m_max=64),
        consumer("torch/c", "fp8_block128", ("row_major",)),
        consumer("torch/d", "int8_channel_token", ("row_major",)),
        consumer("torch/e", "fp8_block128", ("row_major",), m_min=10, m_max=20),
    )
    for m in (None, 1, 15, 100):
        answer = ask(linear(), *kernels, m=m).to_dict()
        named = {i for r in answer["ranges"] for i in r["pipeline"]} | set(answer["rejected"])
        assert named >= {k.id for k in kernels if k.op == "linear"}


def test_m_ranges_follow_the_declared_limits(producer: Make, consumer: Make, ask: Ask) -> None:
    kernels = (
        producer("triton/q", "fp8_group128", ("row_major",)),
        consumer("cutlass/small", "fp8_block128", ("row_major",), m_max=64),
        consumer("torch/any", "fp8_block128", ("row_major",)),
    )
    selection = ask(linear(), *kernels)
    spans = [(c.m_min, c.m_max, c.pipeline.main.id) for c in selection.ranges]
    assert spans == [(1, 64, "cutlass/small"), (65, None, "torch/any")]
    assert [(r.code, r.m_min, r.m_max) for r in selection.rejected["torch/any"]] == [
        ("outranked", 1, 64)
    ]
    assert [(r.code, r.m_min, r.m_max) for r in selection.rejected["cutlass/small"]] == [
        ("m_range", 65, None)
    ]
    assert ids(selection, 0)[-1] == "cutlass/small"


def test_a_gap_in_m_is_left_open_and_said(producer: Make, consumer: Make, ask: Ask) -> None:
    kernels = (
        producer("triton/q", "fp8_group128", ("row_major",)),
        consumer("cutlass/large", "fp8_block128", ("row_major",), m_min=17),
    )
    selection = ask(linear(), *kernels)
    assert selection.range_for(16) is None
    assert selection.range_for(17) is not None
    assert not ask(linear(), *kernels, m=16).is_served


def test_a_multiple_of_m_serves_only_where_m_is_known(
    producer: Make, consumer: Make, ask: Ask
) -> None:
    kernels = (
        producer("triton/q", "fp8_group128", ("row_major",)),
        consumer("cutlass/x4", "fp8_block128", ("row_major",), m_multiple=4),
    )
    assert not ask(linear(), *kernels).is_served
    assert ask(linear(), *kernels, m=8).is_served
    refused = ask(linear(), *kernels, m=6)
    assert codes(refused, "cutlass/x4") == ["m_multiple"]


def test_all_ranges_share_one_weight_layout(producer: Make, consumer: Make, ask: Ask) -> None:
    kernels = (
        producer("triton/q", "fp8_group128", ("row_major",)),
        consumer("cutlass/small", "fp8_block128", ("row_major",), m_max=64, weight_layout="c:1"),
        consumer("triton/any", "fp8_block128", ("row_major",), weight_layout="t:1"),
    )
    selection = ask(linear(), *kernels)
    assert selection.weight_layouts == ("t:1",)
    assert [c.pipeline.main.id for c in selection.ranges] == ["triton/any"]
    assert "weight_layout" in codes(selection, "cutlass/small")
    both = ask(linear(), *kernels, weight_copies=2)
    assert [c.pipeline.main.id for c in both.ranges] == ["cutlass/small", "triton/any"]


def test_a_kernel_that_only_pads_shares_canonical_weights_where_nothing_needs_it(
    producer: Make, consumer: Make, ask: Ask
) -> None:
    kernels = (
        producer("triton/q", "fp8_token", ("row_major",), takes_padded_n=True),
        consumer(
            "cutlass/small",
            "fp8_channel_token",
            ("row_major",),
            m_max=64,
            pad_k_to=16,
            weight_layout="cutlass:wide",
            canonical_if_aligned=True,
        ),
        consumer("triton/any", "fp8_channel_token", ("row_major",), takes_padded_n=True),
    )
    aligned = ask(linear("fp8_channel_token", k=1376), *kernels)
    assert aligned.weight_layouts == ("canonical",)
    assert [c.pipeline.main.id for c in aligned.ranges] == ["cutlass/small", "triton/any"]
    odd = ask(linear("fp8_channel_token", k=1368), *kernels)
    assert odd.weight_layouts == ("canonical",)
    assert [c.pipeline.main.id for c in odd.ranges] == ["triton/any"]
    copies = ask(linear("fp8_channel_token", k=1368), *kernels, weight_copies=2)
    assert copies.weight_layouts == ("canonical", "cutlass:wide")


def test_a_deny_pattern_rejects_with_its_origin(producer: Make, consumer: Make, ask: Ask) -> None:
    kernels = (
        producer("triton/q", "fp8_group128", ("row_major",)),
        consumer("cutlass/a", "fp8_block128", ("row_major",)),
        consumer("torch/b", "fp8_block128", ("row_major",)),
    )
    selection = ask(
        linear(), *kernels, deny=("cutlass/*",), origins={"deny": "plugins.toml line 7"}
    )
    assert ids(selection)[-1] == "torch/b"
    assert selection.rejected["cutlass/a"][0].code == "denied"
    assert "plugins.toml line 7" in selection.rejected["cutlass/a"][0].required


def test_a_denied_producer_is_not_used_either(producer: Make, consumer: Make, ask: Ask) -> None:
    kernels = (
        producer("triton/q", "fp8_group128", ("row_major",)),
        producer("torch/q", "fp8_group128", ("row_major",)),
        consumer("torch/b", "fp8_block128", ("row_major",)),
    )
    assert ids(ask(linear(), *kernels, deny=("triton",))) == ("torch/q", "torch/b")


def test_what_is_forced_is_taken_or_refused_with_reasons(producer: Make, consumer: Make) -> None:
    kernels = (
        producer("triton/q", "fp8_group128", ("row_major",)),
        consumer("cutlass/a", "fp8_block128", ("row_major",)),
        consumer("torch/b", "fp8_block128", ("row_major",), arch="100f"),
    )
    device, stock = PROFILES["h200"], Inventory(kernels=kernels)
    taken = select(linear(), device, Settings(force="cutlass"), stock)
    assert ids(taken) == ("triton/q", "cutlass/a")
    with pytest.raises(ForcedKernelError) as caught:
        select(linear(), device, Settings(force="torch/b"), stock)
    assert [r.code for r in caught.value.rejected["torch/b"]] == ["arch"]
    assert "torch/b" in str(caught.value)
    with pytest.raises(ForcedKernelError, match='did you mean "cutlass/a"'):
        select(linear(), device, Settings(force="cutlas/a"), stock)


def test_forcing_a_producer_by_id_leaves_the_consumer_free(
    producer: Make, consumer: Make, ask: Ask
) -> None:
    kernels = (
        producer("triton/q", "fp8_group128", ("row_major",)),
        producer("torch/q", "fp8_group128", ("row_major",)),
        consumer("cutlass/a", "fp8_block128", ("row_major",)),
    )
    assert ids(ask(linear(), *kernels, force="torch/q")) == ("torch/q", "cutlass/a")


def test_required_evidence_keeps_out_what_is_declared_or_stale(
    producer: Make, consumer: Make, ask: Ask
) -> None:
    kernels = (
        producer("triton/q", "fp8_group128", ("row_major",)),
        consumer("cutlass/a", "fp8_block128", ("row_major",)),
        consumer("torch/b", "fp8_block128", ("row_major",)),
    )
    evidence = {
        "triton/q": Evidence(EvidenceLevel.VERIFIED),
        "torch/b": Evidence(EvidenceLevel.MEASURED),
        "cutlass/a": Evidence(EvidenceLevel.VERIFIED, stale=True),
    }
    selection = ask(
        linear(), *kernels, require_evidence="verified", inventory={"evidence": evidence}
    )
    assert ids(selection) == ("triton/q", "torch/b")
    assert codes(selection, "cutlass/a") == ["evidence"]


def test_no_kernel_lists_every_candidate_and_the_next_step(producer: Make, consumer: Make) -> None:
    kernels = (
        producer("triton/q", "fp8_token", ("row_major",)),
        consumer("cutlass/a", "fp8_channel_token", ("row_major",), align_k=16),
        consumer("torch/b", "fp8_channel_token", ("row_major",), arch="100f"),
    )
    with pytest.raises(NoKernelError) as caught:
        select(
            linear("fp8_channel_token", k=1368),
            PROFILES["h200"],
            Settings(),
            Inventory(kernels=kernels),
        )
    text = str(caught.value)
    assert "cutlass/a" in text
    assert "torch/b" in text
    assert "a multiple of 16" in text
    assert "next: in_features = 1368: pad in_features from 1368 to 1376" in text


def test_the_nearest_miss_names_the_smallest_change(
    producer: Make, consumer: Make, ask: Ask
) -> None:
    kernels = (
        producer("triton/q", "fp8_token", ("row_major",)),
        consumer("cutlass/a", "fp8_channel_token", ("row_major",), align_k=16),
        consumer("cutlass/b", "fp8_channel_token", ("row_major",), align_k=16, takes_bias=False),
        consumer("cutlass/c", "fp8_channel_token", ("row_major",), arch="100f"),
        consumer("torch/reference", "fp8_channel_token", ("row_major",), is_reference=True),
    )
    miss = ask(linear("fp8_channel_token", k=1368, bias=True), *kernels).nearest_miss
    assert miss is not None
    assert miss.kernel == "cutlass/a"
    assert "1376" in miss.text
    aligned = ask(linear("fp8_channel_token", k=1376), *kernels).nearest_miss
    assert aligned is None


def test_producer_ops_select_a_single_kernel_by_layout(producer: Make, ask: Ask) -> None:
    kernels = (
        producer("triton/q", "nvfp4", ("row_major", "swizzled_128x4")),
        producer("torch/q", "nvfp4", ("swizzled_8x4",), is_reference=True),
    )
    config = QuantizeConfig(operand="nvfp4", n=7152, padded_n=7168, layout="swizzled_8x4")
    selection = ask(config, *kernels)
    assert ids(selection) == ("torch/q",)
    assert selection.ranges[0].tier is Tier.REFERENCE
    assert codes(selection, "triton/q") == ["layout"]


def test_what_a_producer_computes_must_match_exactly(ask: Ask) -> None:
    offer = OperandOffer.of(
        operand("fp8_group128"), ("row_major",), any_eps=False, eps=1e-10, takes_scale_ub=False
    )
    spec = KernelSpec(
        "vendor/q", "quantize", Capability(arch="any", produces=(offer,)), "nowhere:nothing"
    )

    def config(**changes: Any) -> QuantizeConfig:
        return QuantizeConfig(operand=operand("fp8_group128").replace(**changes), n=256)

    assert ask(config(), spec).is_served
    assert codes(ask(config(eps=1e-6), spec), "vendor/q") == ["eps"]
    assert codes(ask(config(scale_ub=10.0), spec), "vendor/q") == ["scale_ub"]


def test_answers_are_the_same_every_time_and_in_json(
    producer: Make, consumer: Make, ask: Ask
) -> None:
    kernels = (
        producer("triton/q", "fp8_group128", ("row_major",)),
        consumer("cutlass/a", "fp8_block128", ("row_major",), m_max=64),
        consumer("torch/b", "fp8_block128", ("row_major",)),
    )
    first, second = ask(linear(), *kernels), ask(linear(), *kernels)
    assert json.dumps(first.to_dict()) == json.dumps(second.to_dict())
    assert first.digest() == second.digest()
    keys = {"config", "device", "assumptions", "ranges", "rejected", "nearest_miss", "settings"}
    assert keys <= set(first.to_dict())


def test_explain_names_every_kernel_and_the_origin_of_settings(
    producer: Make, consumer: Make, ask: Ask
) -> None:
    kernels = (
        producer("triton/q", "fp8_group128", ("row_major",)),
        consumer("cutlass/a", "fp8_block128", ("row_major",), arch="100f"),
        consumer("torch/b", "fp8_block128", ("row_major",)),
    )
    text = ask(linear(), *kernels, origins={"order": "plugins.toml line 4"}).explain()
    assert "triton/q -> torch/b" in text
    assert "arch: needs 100f, found sm90" in text
    assert "from plugins.toml line 4" in text


def test_a_kernel_of_other_weights_says_that_and_no_more(consumer: Make, ask: Ask) -> None:
    int8 = consumer("torch/int8", "int8_channel_token", ("row_major",))
    selection = ask(linear("nvfp4"), int8)
    assert [r.field for r in selection.rejected["torch/int8"]] == ["scheme.weight.element"]
