"""The front door: what it refuses, and that asking again gives the same object."""

from __future__ import annotations

from typing import Any

import pytest

import quantmux as qm

CONFIG = qm.LinearConfig(in_features=4096, out_features=4096, scheme="fp8_block128")


def test_the_same_question_gives_the_same_object() -> None:
    assert qm.select(CONFIG, device="h200") is qm.select(CONFIG, device="h200")
    assert qm.select(CONFIG, device="h200") is not qm.select(CONFIG, device="b200")


def test_policy_of_a_context_and_of_a_call_change_the_answer() -> None:
    plain = qm.select(CONFIG, device="h200")
    first = plain.kernels[-1]
    with qm.policy(deny=[first]):
        denied = qm.select(CONFIG, device="h200")
        assert qm.select(CONFIG, device="h200", deny=[]).kernels == plain.kernels
    assert first not in denied.kernels
    assert qm.select(CONFIG, device="h200") is plain


@pytest.mark.parametrize("config", ["x", {"op": "linear"}, None, 3])
def test_what_is_no_layer_config_is_refused(config: Any) -> None:
    for ask in (qm.select, qm.explain):
        with pytest.raises(qm.ConfigError, match="a layer config is asked for"):
            ask(config, device="cpu")


@pytest.mark.parametrize("m", [-1, "8", 2.0, True])
def test_what_is_no_number_of_rows_is_refused(m: Any) -> None:
    with pytest.raises(qm.ConfigError, match="number of rows"):
        qm.select(CONFIG, device="h200", m=m)


@pytest.mark.parametrize("value", [4.0, True, 2**31, 0, "64"])
def test_a_width_is_an_int_that_kernels_can_address(value: Any) -> None:
    with pytest.raises(qm.ConfigError, match="in_features"):
        qm.LinearConfig(in_features=value, out_features=64, scheme="fp8_block128")


def test_a_plan_of_pairs_shares_selections_and_is_the_same_every_time() -> None:
    layers = [(f"layers.{i}.down", CONFIG) for i in range(3)]
    first, second = qm.plan(layers, device="h200"), qm.plan(layers, device="h200")
    assert first.to_json() == second.to_json()
    assert len(first.selections) == 1
    assert [x.name for x in first.layers] == [name for name, _ in layers]


def test_a_rule_for_one_layer_is_kept_in_a_plan() -> None:
    rule = {"layer": "*.down", "force": "torch/linear_reference"}
    with qm.policy(rules=[rule]):
        plan = qm.plan([("a.up", CONFIG), ("a.down", CONFIG)], device="h200")
    up, down = (plan.selections[x.selection] for x in plan.layers)
    assert down.ranges[0].pipeline.main.id == "torch/linear_reference"
    assert up.ranges[0].pipeline.main.id != "torch/linear_reference"
    assert any("tier reference" in line for line in plan.warnings)


def test_layers_that_nothing_serves_are_named_and_do_not_hide_the_others() -> None:
    backends = ("cutlass", "flashinfer", "torch", "triton")
    with qm.policy(deny=[f"{name}/linear_*" for name in backends]):
        plan = qm.plan([("a", CONFIG)], device="h200")
    assert plan.warnings == ("no kernel serves fp8_block128: a",)


def test_a_misspelt_name_in_a_policy_is_refused_and_an_absent_backend_is_not() -> None:
    with pytest.raises(qm.ConfigError, match='did you mean "torch"'):
        qm.select(CONFIG, device="h200", order=["trch"])
    with (
        qm.policy(deny=["torch/linear_scaled_mm_blck"]),
        pytest.raises(qm.ConfigError, match='did you mean "torch/linear_scaled_mm_block"'),
    ):
        qm.select(CONFIG, device="h200")
    assert qm.select(CONFIG, device="h200", order=["acme", "torch"]).is_served
