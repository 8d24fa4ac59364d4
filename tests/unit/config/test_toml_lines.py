from quantmux.config.toml_lines import LineIndex

TEXT = '''# comment with key = 1 and [header]
schema = 1

[policy]
order = [  # "torch" is not here
  "cutlass",
  'tri]ton',
]
note = """
deny = ["inside a string"]
[also.inside]
"""
deny = ["a#b"]  # [not.a.header]
fallback = { build = "error" }

[ plugins . "acme" ]
options.size = 3

[[rule]]
layer = "x"
[[rule]]
layer = "y"
[rule.fallback]
run = "warn"
'''


def test_finds_keys_below_strings_comments_and_lists_of_several_lines():
    index = LineIndex(TEXT)
    assert index.line(("schema",)) == 2
    assert index.line(("policy",)) == 4
    assert index.line(("policy", "order")) == 5
    assert index.line(("policy", "note")) == 9
    assert index.line(("policy", "deny")) == 13


def test_finds_the_line_of_a_list_element():
    index = LineIndex(TEXT)
    assert index.line(("policy", "order"), "cutlass") == 6
    assert index.line(("policy", "order"), "tri]ton") == 7


def test_tells_the_tables_of_an_array_apart():
    index = LineIndex(TEXT)
    assert index.line(("rule", 0)) == 19
    assert index.line(("rule", 0, "layer")) == 20
    assert index.line(("rule", 1, "layer")) == 22
    assert index.line(("rule", 1, "fallback", "run")) == 24


def test_reads_quoted_and_dotted_keys():
    index = LineIndex(TEXT)
    assert index.line(("plugins", "acme")) == 16
    assert index.line(("plugins", "acme", "options", "size")) == 17


def test_falls_back_to_the_nearest_table_above():
    index = LineIndex(TEXT)
    assert index.line(("policy", "fallback", "build")) == 14
    assert index.line(("policy", "absent")) == 4
    assert index.line(("absent",)) is None
