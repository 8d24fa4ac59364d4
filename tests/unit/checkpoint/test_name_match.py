import pytest

from quantmux.checkpoint.name_match import Matcher, ignores_fused
from quantmux.errors import CheckpointError

HF_GPT_OSS = ["model.layers.*.self_attn", "model.embed_tokens", "lm_head"]


@pytest.mark.parametrize(
    ("dialect", "patterns", "name", "want"),
    [
        ("exact", ["a.b"], "a.b", "a.b"),
        ("exact", ["a.b"], "a.b.c", None),
        ("exact", ["a*"], "a.b", None),
        ("ct", ["lm_head"], "lm_head", "lm_head"),
        ("ct", ["lm_head"], "model.lm_head", None),
        ("ct", [r"re:.*mlp\.gate$"], "model.layers.0.mlp.gate", r"re:.*mlp\.gate$"),
        ("ct", [r"re:.*mlp\.gate$"], "model.layers.0.mlp.gate_proj", None),
        ("ct", ["re:mlp"], "model.mlp", None),  # re.match is anchored at the start
        ("ct", ["re:model"], "model.mlp.up", "re:model"),  # ... and not at the end
        ("ct", ["model.*"], "model.mlp", None),  # without re: it is a name
        ("modelopt", ["model.layers.0*"], "model.layers.0.mlp.up", "model.layers.0*"),
        ("modelopt", ["*mlp.gate"], "model.layers.3.mlp.gate", "*mlp.gate"),
        ("modelopt", ["*mlp.gate"], "model.layers.3.mlp.gate_proj", None),
        ("modelopt", ["lm_head"], "model.lm_head", None),
        ("modelopt", ["layer[01].up"], "layer1.up", "layer[01].up"),
        ("hf", HF_GPT_OSS, "model.layers.11.self_attn.q_proj", "model.layers.*.self_attn"),
        ("hf", HF_GPT_OSS, "model.layers.11.self_attn_x.q_proj", None),
        ("hf", ["model.vision_tower"], "model.vision_tower.l.0.fc1", "model.vision_tower"),
        ("hf", ["model.vision_tower"], "model.vision_tower2.l.0.fc1", None),
        ("hf", ["lm_head"], "model.lm_head", "lm_head"),
        ("hf", ["mlp.gate"], "model.layers.0.mlp.gate", "mlp.gate"),
        ("hf", ["mlp.gate"], "model.layers.0.mlp.gate_proj", None),
        ("hf", ["gate"], "model.xgate", None),
    ],
)
def test_each_dialect_reads_a_list_in_its_own_way(dialect, patterns, name, want):
    assert Matcher(dialect, patterns).match(name) == want


def test_only_compressed_tensors_knows_classes():
    assert Matcher("ct", ["Linear"]).match("a.b", "Linear") == "Linear"
    assert Matcher("ct", ["Linear"]).match("a.b", "Embedding") is None
    assert Matcher("hf", ["Linear"]).match("a.b", "Linear") is None


def test_old_modelopt_lists_match_substrings_when_asked():
    assert Matcher("modelopt", ["vision"], substring=True).match("model.vision.fc") == "vision"
    assert Matcher("modelopt", ["vision"]).match("model.vision.fc") is None


def test_literal_names_of_long_lists_are_found():
    names = [f"model.layers.{i}.mlp.gate" for i in range(500)]
    for dialect in ("ct", "modelopt", "hf", "exact"):
        matcher = Matcher(dialect, names)
        assert all(matcher.match(name) == name for name in names)
        assert matcher.match("model.layers.500.mlp.gate") is None


@pytest.mark.parametrize("dialect", ["ct", "hf"])
def test_refuses_a_pattern_that_is_no_regular_expression(dialect):
    with pytest.raises(CheckpointError) as caught:
        Matcher(dialect, ["re:(", "a(*"])
    assert caught.value.code == "bad_pattern"


def test_refuses_a_pattern_that_is_no_string():
    with pytest.raises(CheckpointError):
        Matcher("exact", [3])


@pytest.mark.parametrize(
    ("listed", "want"),
    [
        (["l.q_proj", "l.k_proj", "l.v_proj"], True),
        (["l.qkv_proj"], True),
        ([], False),
        (["l.o_proj"], False),
    ],
)
def test_a_fused_module_is_ignored_by_its_name_or_by_all_of_its_shards(listed, want):
    assert ignores_fused("l.qkv_proj", Matcher("exact", listed)) is want


def test_refuses_a_fused_module_of_which_some_shards_are_ignored():
    with pytest.raises(CheckpointError) as caught:
        ignores_fused("l.gate_up_proj", Matcher("ct", [r"re:.*\.up_proj", "l.x"]))
    assert caught.value.code == "partly_ignored"


def test_an_unfused_module_is_ignored_by_its_own_name_only():
    assert ignores_fused("down_proj", Matcher("exact", ["down_proj"]))
    assert not ignores_fused("gate_up_proj", Matcher("exact", ["down_proj"]))
