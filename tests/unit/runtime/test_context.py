import pytest

from quantmux.capability.detect import HERE_CPU
from quantmux.capability.profiles import profile
from quantmux.config.policy import Rule
from quantmux.config.policy_context import use_policy
from quantmux.errors import ForcedKernelError, NoKernelError
from quantmux.runtime.context import default_context
from quantmux.runtime.events import stats


@pytest.fixture
def two(shop):
    shop.producer("one/quantize")
    shop.consumer("one/linear")
    shop.producer("two/quantize")
    shop.consumer("two/linear")
    return shop


def test_the_same_question_gives_the_same_object(two):
    context = two.context()
    first = two.select(context)
    assert two.select(context) is first
    assert two.select(context, m=8) is not first
    assert two.select(context, m=8) is two.select(context, m=8)
    assert context.select(two.config, profile("h200")) is not first


def test_call_over_context_over_file(two):
    context = two.context(order=("one", "two"))
    assert two.select(context).kernels[-1] == "one/linear"
    with use_policy(order=["two"]):
        assert two.select(context).kernels[-1] == "two/linear"
        forced = two.select(context, call_overrides={"force": "one/linear"})
        assert forced.kernels[-1] == "one/linear"
    assert two.select(context).kernels[-1] == "one/linear"


def test_a_quarantined_kernel_is_not_selected_until_it_is_lifted(two):
    context = two.context(order=("one", "two"))
    assert two.select(context).kernels[-1] == "one/linear"
    context.put_away("one/linear", HERE_CPU, "it broke")
    again = two.select(context)
    assert again.kernels[-1] == "two/linear"
    assert again.rejected["one/linear"][0].code == "quarantined"
    context.quarantine.clear()
    assert two.select(context).kernels[-1] == "one/linear"


def test_a_force_that_cannot_serve_is_an_error(two):
    context = two.context(deny=("two/linear",))
    with pytest.raises(ForcedKernelError) as caught:
        two.select(context, call_overrides={"force": "two/linear"})
    assert caught.value.rejected["two/linear"]
    assert stats()["select"] == 0


def test_a_rule_that_says_so_itself_makes_its_force_a_wish(two):
    rule = Rule(layer="*.q", force="two/linear", deny=["two/linear"], fallback={"select": "silent"})
    context = two.context(order=("one", "two"), rules=(rule,))
    assert two.select(context, layer="model.q").kernels[-1] == "one/linear"
    assert stats()["select"] == 1
    (event,) = stats()["events"]
    assert (event["wanted"], event["layer"]) == ("two/linear", "model.q")
    assert "one/linear" in event["taken"]


def test_a_rule_s_force_without_its_own_word_is_an_error(two):
    rule = Rule(layer="*.q", force="two/linear", deny=["two/linear"])
    context = two.context(rules=(rule,), fallback={"select": "warn"})
    with pytest.raises(ForcedKernelError):
        two.select(context, layer="model.q")


def test_survey_answers_where_select_raises(two):
    context = two.context(deny=("*",))
    with pytest.raises(NoKernelError):
        two.select(context)
    found = context.survey(two.config, HERE_CPU)
    assert not found.is_served
    assert set(found.rejected) == {"one/linear", "two/linear"}


def test_reselect_leaves_kernels_out_and_keeps_the_settings(two):
    context = two.context(order=("one", "two"))
    first = two.select(context)
    again = context.reselect(first, without=("one/linear",))
    assert again.kernels[-1] == "two/linear"
    assert context.reselect(first, without=("one/linear",)) is again
    assert not context.reselect(first, without=("one/linear", "two/linear")).is_served


@pytest.mark.usefixtures("shop")
def test_a_failed_plugin_is_counted_as_a_load_event():
    from quantmux.config.policy import Policy
    from quantmux.registry.manager import Registry
    from quantmux.runtime.context import Context
    from quantmux.runtime.quarantine import Quarantine

    broken = Registry.of({"broken": object()}, Policy(fallback={"load": "silent"}))
    Context(broken, Quarantine())
    assert stats()["load"] == 1
    assert stats()["events"][0]["wanted"] == "broken"


def test_the_process_has_one_context():
    assert default_context() is default_context()
