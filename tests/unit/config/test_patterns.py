import pytest

from quantmux.config.patterns import check_pattern, is_plain, matches
from quantmux.errors import ConfigError


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("model.layers.0.mlp.down_proj", "model.layers.0.mlp.down_proj", True),
        ("*.down_proj", "model.layers.0.mlp.down_proj", True),
        ("down_proj", "model.layers.0.mlp.down_proj", False),
        ("*.DOWN_proj", "model.layers.0.mlp.down_proj", False),
        ("layer?", "layer7", True),
        ("layer?", "layer10", False),
        ("[qk]_proj", "q_proj", True),
        ("[qk]_proj", "v_proj", False),
        (r"re:model\.layers\.(0|61)\.", "model.layers.61.mlp", True),
        (r"re:model\.layers\.(0|61)\.", "model.layers.6.mlp", False),
        ("re:lm_head", "lm_head", True),
        ("re:lm_head", "model.lm_head", False),
        ("re:.*lm_head$", "model.lm_head", True),
    ],
)
def test_matches_globs_whole_and_regular_expressions_from_the_beginning(pattern, name, expected):
    assert matches(pattern, name) is expected


def test_refuses_a_regular_expression_that_does_not_compile():
    with pytest.raises(ConfigError, match="not a regular expression"):
        check_pattern("re:(")


@pytest.mark.parametrize("pattern", ["", "  "])
def test_refuses_an_empty_pattern(pattern):
    with pytest.raises(ConfigError, match="empty"):
        check_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "plain"), [("torch", True), ("torch/x-1.0", True), ("t*", False), ("re:t", False)]
)
def test_tells_names_from_patterns(pattern, plain):
    assert is_plain(pattern) is plain
