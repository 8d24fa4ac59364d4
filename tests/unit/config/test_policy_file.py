import pytest

from quantmux.config import Policy, load_policy
from quantmux.config.policy_file import LoadedPolicy, default_policy, parse_policy
from quantmux.errors import ConfigError

BACKENDS = ("cutlass", "flashinfer", "torch", "triton")


@pytest.fixture(autouse=True)
def no_policy_from_the_environment(monkeypatch):
    monkeypatch.delenv("QUANTMUX_PLUGINS", raising=False)


@pytest.fixture
def write(tmp_path):
    def writing(text, name="mine.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return writing


def test_the_shipped_file_says_what_the_models_default_to():
    shipped = load_policy()
    assert shipped.path is None
    for key, value in Policy():
        assert getattr(shipped.policy, key) == value or key == "fallback"
    assert dict(shipped.policy.fallback) == dict(Policy().fallback)
    shipped.check_names(BACKENDS)


def test_a_users_file_lies_over_the_shipped_one(write):
    path = write('schema = 1\n\n[policy]\ndeny = ["triton"]\n[policy.fallback]\nrun = "error"\n')
    loaded = load_policy(path)
    assert loaded.path == path
    assert loaded.policy.deny == ("triton",)
    assert loaded.policy.order == ("cutlass", "triton", "torch", "flashinfer")
    assert loaded.policy.fallback.run == "error"
    assert loaded.policy.fallback.build == "warn"
    assert str(loaded.where("policy.deny")) == f"{path} line 4"
    assert str(loaded.where("policy.fallback.run")) == f"{path} line 6"
    assert str(loaded.where("policy.order")).startswith("plugins.toml line ")


def test_the_environment_names_the_file_and_the_argument_goes_over_it(write, monkeypatch):
    named = write('schema = 1\n[policy]\nforce = "torch"\n', "env.toml")
    monkeypatch.setenv("QUANTMUX_PLUGINS", str(named))
    assert load_policy().policy.force == "torch"
    assert default_policy().policy.force == "torch"
    other = write('schema = 1\n[policy]\nforce = "triton"\n')
    assert load_policy(other).policy.force == "triton"


def test_no_file_is_read_from_the_working_directory(write, tmp_path, monkeypatch):
    write('schema = 1\n[policy]\nforce = "torch"\n', "plugins.toml")
    monkeypatch.chdir(tmp_path)
    assert load_policy().policy.force is None


def test_a_file_that_is_not_there_names_who_asked_for_it(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load_policy(tmp_path / "absent.toml")
    assert "the argument" in str(caught.value)
    monkeypatch.setenv("QUANTMUX_PLUGINS", str(tmp_path / "absent.toml"))
    with pytest.raises(ConfigError, match="QUANTMUX_PLUGINS"):
        load_policy()
    with pytest.raises(ConfigError, match="cannot be read"):
        load_policy(tmp_path)


@pytest.mark.parametrize(
    ("text", "line", "parts"),
    [
        ("schema = 1\n[policy\n", 2, ["not valid TOML"]),
        ('schema = 1\n[policy]\norder = ["torch"', 3, ["not valid TOML"]),
        ("schema = 1\n[policy]\nforce = 1\nforce = 2\n", 4, ["not valid TOML"]),
        ("[policy]\n", None, ["schema is missing", "write schema = 1"]),
        ("\nschema = 2\n", 2, ["schema is 2", "reads schema = 1"]),
        ("schema = true\n", 1, ["schema is True"]),
        ('schema = 1\n[polcy]\nforce = "x"\n', 2, ['no key "polcy"', 'did you mean "policy"']),
        ("schema = 1\n[policy]\n\nordr = []\n", 4, ['no key "ordr"', 'did you mean "order"']),
        ('schema = 1\n[policy]\norder = "torch"\n', 3, ["[policy].order", "a list is needed"]),
        ("schema = 1\n[policy]\norder = [1]\n", 3, ["[policy].order", "valid string"]),
        ('schema = 1\n[policy]\nweight_copies = "2"\n', 3, ["weight_copies", "valid integer"]),
        ('schema = 1\n[policy.fallback]\nbuild = "no"\n', 3, ["[policy.fallback].build"]),
        ('schema = 1\n[policy.fallback]\nbuid = "no"\n', 3, ['did you mean "build"']),
        ("schema = 1\n[policy]\nfallback = 3\n", 3, ["[policy].fallback"]),
        ("schema = 1\npolicy = 3\n", 2, ["policy is a table"]),
        ("schema = 1\n[plugins]\nacme = 3\n", 3, ["plugins.acme is a table"]),
        ('schema = 1\n[plugins.acme]\nenabled = "no"\n', 3, ["[plugins.acme].enabled"]),
        ("schema = 1\n[plugins.acme]\nenabld = 1\n", 3, ['did you mean "enabled"']),
        ("schema = 1\n[plugins.Acme]\n", 2, ["cannot be a plugin"]),
        ('schema = 1\n[rule]\nlayer = "x"\n', 2, ["begin each rule with [[rule]]"]),
        ('schema = 1\n[[rule]]\nlayer = "x"\n', 2, ["[[rule]] 1 sets nothing"]),
        (
            'schema = 1\n[[rule]]\nforce = "torch"\n[[rule]]\nlayr = "x"\nforce = "torch"\n',
            5,
            ["[[rule]] 2", 'did you mean "layer"'],
        ),
        (
            'schema = 1\n[[rule]]\nlayer = "re:("\nforce = "torch"\n',
            3,
            ["[[rule]] 1.layer", "not a regular expression"],
        ),
    ],
)
def test_says_file_line_and_reason(text, line, parts):
    with pytest.raises(ConfigError) as caught:
        parse_policy(text, "some.toml")
    where = "some.toml" if line is None else f"some.toml, line {line}"
    assert caught.value.headline.startswith(f"{where}: ")
    for part in parts:
        assert part in str(caught.value)


def test_says_the_line_of_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "latin.toml"
    path.write_bytes(b"schema = 1\n# caf\xe9\n")
    with pytest.raises(ConfigError, match="line 2: not UTF-8"):
        load_policy(path)


@pytest.mark.parametrize(
    ("text", "line", "parts"),
    [
        (
            'schema = 1\n[policy]\norder = [\n  "torch",\n  "cutlas",\n]\n',
            5,
            ['[policy].order names "cutlas"', 'did you mean "cutlass"'],
        ),
        ('schema = 1\n[policy]\nforce = "tritn"\n', 3, ['"tritn"', 'did you mean "triton"']),
        ('schema = 1\n[policy]\ndeny = ["tritn"]\n', 3, ["[policy].deny"]),
        ('schema = 1\n[policy]\ndeny = ["torch/linear_int"]\n', 3, ["torch/linear_int_mm"]),
        (
            'schema = 1\n[[rule]]\nlayer = "*"\nforce = "torch/linear_refernce"\n',
            4,
            ["[[rule]] 1.force", 'did you mean "torch/linear_reference"'],
        ),
        ("schema = 1\n[plugins.tritton]\nenabled = false\n", 2, ['did you mean "triton"']),
    ],
)
def test_names_that_do_not_exist_are_errors_with_line_and_suggestion(write, text, line, parts):
    path = write(text)
    loaded = load_policy(path)
    with pytest.raises(ConfigError) as caught:
        loaded.check_names(BACKENDS, ["torch/linear_reference", "torch/linear_int_mm"])
    assert caught.value.headline.startswith(f"{path}, line {line}: ")
    for part in parts:
        assert part in str(caught.value)


def test_a_declared_plugin_may_be_named_though_it_is_not_here(write):
    text = 'schema = 1\n[policy]\norder = ["acme", "torch"]\n'
    with pytest.raises(ConfigError, match="acme"):
        load_policy(write(text)).check_names(BACKENDS)
    load_policy(write(text + "[plugins.acme]\n")).check_names(BACKENDS)


def test_globs_and_kernels_of_backends_without_any_are_not_checked(write):
    text = 'schema = 1\n[policy]\ndeny = ["acme*", "re:x.*", "cutlass/gone"]\n'
    load_policy(write(text)).check_names(BACKENDS, ["torch/linear_reference"])


def test_a_replaced_list_takes_its_lines_with_it(write):
    path = write('schema = 1\n[policy]\norder = ["torch"]\n')
    loaded = load_policy(path)
    assert "policy.order[triton]" not in loaded.lines
    assert str(loaded.where("policy.order[torch]")) == f"{path} line 3"


def test_loaded_policies_are_told_apart_by_identity():
    policy = Policy(deny=["x"])
    assert LoadedPolicy(policy) != LoadedPolicy(policy)


@pytest.mark.parametrize(
    ("line", "near"),
    [('scheme = "nvfp5"', "nvfp4"), ('op = "liner"', "linear")],
)
def test_a_rule_that_can_match_nothing_is_refused_with_its_line(tmp_path, line, near):
    file = tmp_path / "policy.toml"
    file.write_text(f'schema = 1\n[[rule]]\n{line}\nforce = "torch"\n')
    with pytest.raises(ConfigError, match=f'did you mean "{near}"') as caught:
        load_policy(file)
    assert "policy.toml, line 3" in str(caught.value)
