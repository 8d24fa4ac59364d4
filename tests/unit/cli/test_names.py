import pytest

from quantmux.cli._names import name_pattern, two_lines


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("model.layers.12.mlp.experts.3.down_proj", "model.layers.*.mlp.experts.*.down_proj"),
        ("encoder.layer.0", "encoder.layer.*"),
        ("h.0.1.w", "h.*.*.w"),
        ("0.weight", "0.weight"),  # a model's name is not a place in a list
        ("conv2d.fc1", "conv2d.fc1"),
        ("plain", "plain"),
    ],
)
def test_numbers_of_a_name_become_one_spelling(name, pattern):
    assert name_pattern(name) == pattern


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("short.name", ["short.name"]),
        ("a_name_without_any_dot_in_it", ["a_name_without_any_dot_in_it"]),
        (
            "encoder.layer.0.attention.self.query",
            ["encoder.layer.0", "  .attention.self.query"],
        ),
    ],
)
def test_long_names_break_before_a_dot(name, lines):
    assert two_lines(name).split("\n") == lines
    assert two_lines(name).replace("\n  ", "") == name
