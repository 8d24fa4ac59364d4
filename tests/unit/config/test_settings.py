import json

import pytest

from quantmux.config import (
    LinearConfig,
    Policy,
    QuantizeConfig,
    Settings,
    current_context,
    resolve,
    use_policy,
)
from quantmux.config.policy_file import LoadedPolicy, parse_policy
from quantmux.errors import ConfigError

LINEAR = LinearConfig(in_features=256, out_features=128, scheme="nvfp4")
FILE = """schema = 1
[policy]
order = ["triton", "torch"]
deny = ["cutlass/*"]
[policy.fallback]
build = "error"

[[rule]]
layer = "*.down_proj"
scheme = "nvfp4*"
order = ["torch"]
fallback = { run = "silent" }

[[rule]]
layer = "*.down_proj"
force = "triton"

[[rule]]
op = "quantize"
device = "sm90"
weight_copies = 2
"""


@pytest.fixture
def file():
    policy, lines = parse_policy(FILE, "plugins.toml")
    return LoadedPolicy(policy, None, lines)


def test_nothing_given_means_defaults():
    settings = resolve(LINEAR, "h200")
    assert settings == Settings()
    assert set(settings.to_dict()) >= {"order", "deny", "force", "allow_lossy", "fallback.build"}
    assert {entry["origin"] for entry in settings.to_dict().values()} == {"default"}


def test_call_goes_over_context_over_file_over_default(file):
    settings = resolve(
        LINEAR,
        "h200",
        call=Policy(force="torch"),
        context=Policy(force="triton", deny=["acme"]),
        file=file,
    )
    assert (settings.force, settings.origin("force")) == ("torch", "call")
    assert (settings.deny, settings.origin("deny")) == (("acme",), "context")
    assert (settings.order, settings.origin("order")) == (
        ("triton", "torch"),
        "plugins.toml line 3",
    )
    assert (settings.allow_lossy, settings.origin("allow_lossy")) == ("warn", "default")


def test_only_the_first_matching_rule_is_taken(file):
    settings = resolve(LINEAR, "h200", "model.0.down_proj", file=file)
    assert settings.order == ("torch",)
    assert settings.origin("order") == "plugins.toml line 11 ([[rule]] 1)"
    assert settings.force is None
    assert settings.deny == ("cutlass/*",)


def test_a_scheme_that_the_first_rule_does_not_name_gets_the_second(file):
    config = LINEAR.replace(scheme="fp8_block128")
    settings = resolve(config, "h200", "model.0.down_proj", file=file)
    assert (settings.force, settings.order) == ("triton", ("triton", "torch"))
    assert settings.origin("force") == "plugins.toml line 16 ([[rule]] 2)"


def test_fallback_stages_resolve_one_by_one(file):
    settings = resolve(
        LINEAR, "h200", "a.down_proj", call=Policy(fallback={"load": "silent"}), file=file
    )
    shown = {k: v for k, v in settings.to_dict().items() if k.startswith("fallback.")}
    assert shown == {
        "fallback.load": {"value": "silent", "origin": "call"},
        "fallback.select": {"value": "warn", "origin": "default"},
        "fallback.build": {"value": "error", "origin": "plugins.toml line 6"},
        "fallback.run": {"value": "silent", "origin": "plugins.toml line 12 ([[rule]] 1)"},
    }
    assert settings.on_fallback("run") == "silent"


def test_a_layer_rule_never_matches_a_config_without_a_name(file):
    assert resolve(LINEAR, "h200", file=file).order == ("triton", "torch")


def test_rules_match_op_and_any_name_of_the_device(file):
    config = QuantizeConfig(operand="nvfp4", n=256)
    assert resolve(config, ("h200", "sm90"), file=file).weight_copies == 2
    assert resolve(config, ("b200", "sm100"), file=file).weight_copies == 1
    assert resolve(LINEAR, ("h200", "sm90"), file=file).weight_copies == 1


def test_a_scheme_rule_holds_for_exact_accumulation_too():
    config = LINEAR.replace(scheme="fp8_block128+exact")
    for pattern, expected in [
        ("fp8_block128", "torch"),
        ("*+exact", "torch"),
        ("fp8_tensor", None),
    ]:
        policy = Policy(rules=[{"scheme": pattern, "force": "torch"}])
        assert resolve(config, "cpu", file=policy).force == expected


def test_a_call_may_be_a_mapping_and_is_checked():
    assert resolve(LINEAR, "cpu", call={"force": "torch"}).force == "torch"
    with pytest.raises(ConfigError, match="forse"):
        resolve(LINEAR, "cpu", call={"forse": "torch"})
    with pytest.raises(ConfigError, match="cannot set plugins"):
        resolve(LINEAR, "cpu", call=Policy(plugins={"torch": {"enabled": False}}))


def test_settings_are_shared_and_their_identity_leaves_origins_out(file):
    assert resolve(LINEAR, "h200", file=file) is resolve(LINEAR, "h200", file=file)
    by_call, by_context = (
        resolve(LINEAR, "h200", call=Policy(force="torch")),
        resolve(LINEAR, "h200", context=Policy(force="torch")),
    )
    assert by_call == by_context
    assert hash(by_call) == hash(by_context)
    assert by_call.origins != by_context.origins


def test_to_dict_is_json(file):
    shown = resolve(LINEAR, "h200", file=file).to_dict()
    assert json.loads(json.dumps(shown)) == shown


def test_denied_by_gives_the_pattern_over_kernel_or_backend():
    settings = Settings(deny=("acme", "torch/linear_*", "re:triton/.*fp4"))
    assert settings.denied_by("acme/anything") == "acme"
    assert settings.denied_by("torch/linear_int_mm") == "torch/linear_*"
    assert settings.denied_by("triton/gemm_fp4") == "re:triton/.*fp4"
    assert settings.denied_by("torch/quantize") is None


def test_forces_a_kernel_or_all_of_a_backend():
    assert Settings(force="torch").forces("torch/quantize")
    assert not Settings(force="torch").forces("torchao/quantize")
    assert Settings(force="torch/quantize").forces("torch/quantize")
    assert not Settings(force="torch/quantize").forces("torch/quantize2")
    assert not Settings().forces("torch/quantize")


def test_backends_that_order_does_not_name_share_the_last_place():
    settings = Settings(order=("triton", "torch"))
    assert [settings.order_rank(b) for b in ("triton", "torch", "acme", "zeta")] == [0, 1, 2, 2]


def test_a_block_of_context_shows_in_the_origin():
    with use_policy(rules=[{"op": "linear", "force": "torch"}]):
        settings = resolve(LINEAR, "cpu", context=current_context())
    assert settings.origin("force") == "context ([[rule]] 1)"
