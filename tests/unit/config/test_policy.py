import pickle

import pytest

from quantmux.config import FallbackPolicy, PluginSettings, Policy, Rule
from quantmux.errors import ConfigError


def test_an_empty_policy_gives_nothing_and_has_readable_defaults():
    policy = Policy()
    assert policy.given() == {}
    assert policy.order == ("cutlass", "triton", "torch", "flashinfer")
    assert policy.allow_lossy == "warn"
    assert policy.plugin("anything").enabled


def test_giving_a_default_value_differs_from_not_giving_it():
    assert Policy(allow_lossy="warn") != Policy()
    assert Policy(allow_lossy="warn").given() == {"allow_lossy": "warn"}


def test_overlay_goes_key_by_key_and_replaces_lists():
    below = Policy(
        order=["torch"],
        deny=["cutlass/*"],
        fallback={"build": "error", "run": "silent"},
        plugins={"acme": {"options": {"a": 1, "b": {"c": 2}}}, "other": {"enabled": False}},
        rules=[{"layer": "*", "force": "torch"}],
    )
    top = Policy(
        deny=["triton"],
        fallback={"run": "error"},
        plugins={"acme": {"enabled": False, "options": {"b": {"d": 3}}}},
    )
    merged = below.overlaid(top)
    assert merged.order == ("torch",)
    assert merged.deny == ("triton",)
    assert merged.fallback == FallbackPolicy(build="error", run="error")
    acme = PluginSettings(enabled=False, options={"a": 1, "b": {"c": 2, "d": 3}})
    assert merged.plugins == {"acme": acme, "other": PluginSettings(enabled=False)}
    assert merged.rules == (Rule(layer="*", force="torch"),)


def test_overlay_leaves_both_policies_as_they_were():
    below, top = Policy(plugins={"acme": {"options": {"a": 1}}}), Policy(plugins={"acme": {}})
    before = below.model_dump_json(), top.model_dump_json()
    below.overlaid(top)
    assert (below.model_dump_json(), top.model_dump_json()) == before


def test_none_given_takes_back_a_force():
    assert Policy(force="torch").overlaid(Policy(force=None)).force is None
    assert Policy(force="torch").overlaid(Policy()).force == "torch"


def test_equal_policies_hash_equal_and_differ_when_options_differ():
    def of(value):
        return Policy(plugins={"a": {"options": {"x": [value]}}}, rules=[Rule(force="torch")])

    assert of(1) == of(1)
    assert hash(of(1)) == hash(of(1))
    assert of(1) != of(2)
    assert len({of(1), of(2), Policy(), Policy(deny=[])}) == 4


def test_a_pickled_policy_is_equal_and_keeps_what_was_given():
    policy = Policy(deny=["torch"], fallback={"load": "error"})
    hash(policy)
    again = pickle.loads(pickle.dumps(policy))  # noqa: S301 - our own bytes
    assert again == policy
    assert again.given() == policy.given()
    assert again._hash is None


def test_replace_keeps_what_was_never_given():
    assert Policy(deny=["torch"]).replace(force="triton").given() == {
        "deny": ("torch",),
        "force": "triton",
    }


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"order": "torch"}, "a list is needed"),
        ({"order": ["Torch"]}, "cannot be a backend"),
        ({"order": ["torch/linear"]}, "cannot be a backend"),
        ({"order": ["torch", "triton", "torch"]}, '"torch" twice'),
        ({"deny": [""]}, "empty"),
        ({"deny": ["re:["]}, "not a regular expression"),
        ({"force": "Torch"}, "neither a backend nor a kernel id"),
        ({"force": "torch/*"}, "neither a backend nor a kernel id"),
        ({"allow_lossy": "yes"}, "'forbid', 'warn' or 'allow'"),
        ({"keep_canonical": "gpu"}, "keep_canonical"),
        ({"weight_copies": 0}, "weight_copies"),
        ({"weight_copies": "2"}, "weight_copies"),
        ({"weight_copies": True}, "weight_copies"),
        ({"require_evidence": "proved"}, "require_evidence"),
        ({"fallback": {"bild": "error"}}, 'did you mean "build"'),
        ({"fallback": {"build": "ignore"}}, "'error', 'warn' or 'silent'"),
        ({"plugins": {"acme": {"enabled": "no"}}}, "enabled"),
        ({"plugins": {"Acme": {}}}, "cannot be a plugin"),
        ({"rules": [{"layr": "x"}]}, 'did you mean "layer"'),
        ({"rules": [{"layer": "re:("}]}, "not a regular expression"),
        ({"denied": []}, 'did you mean "deny"'),
    ],
)
def test_refuses_what_is_no_policy_and_says_why(keys, message):
    with pytest.raises(ConfigError, match=None) as caught:
        Policy(**keys)
    assert message in str(caught.value)
