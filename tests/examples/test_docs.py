"""What the pages say is run: Python blocks, commands, links, and the reference of plugins.toml."""

import re
import shlex
from pathlib import Path

import pytest

import quantmux as qm
from quantmux.cli import main
from quantmux.config.policy import (
    CHOICES,
    MATCHERS,
    STAGES,
    FallbackPolicy,
    PluginSettings,
    Policy,
)
from quantmux.config.policy_file import parse_policy

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
REFERENCE = ROOT / "docs" / "plugins-toml.md"

# commands with a path of the reader's own
PLACEHOLDER = re.compile(r"\b(path/to|CHECKPOINT|MODEL|OUT)\b|\.toml\b|acme")


def name(page):
    return str(page.relative_to(ROOT))


def blocks(page, language):
    """Give (first line number, text) of the fenced blocks of one language."""
    found, start, lines = [], None, page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if start is None and line.strip() == f"```{language}":
            start = number
        elif start is not None and line.strip() == "```":
            found.append((start, "\n".join(lines[start : number - 1])))
            start = None
    assert start is None, f"{name(page)}:{start}: a block is not closed"
    return found


def with_blocks(language):
    return [page for page in PAGES if blocks(page, language)]


@pytest.fixture
def clean(tmp_path, monkeypatch):
    """A folder of its own, and no plugin, warning or count left behind."""
    monkeypatch.chdir(tmp_path)
    qm.reset_stats()
    yield
    qm.unregister_plugin("acme")
    qm.reset_stats()


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("page", with_blocks("python"), ids=name)
def test_python_blocks_of_a_page_run_in_order(page):
    namespace = {"__name__": "docs"}
    for line, text in blocks(page, "python"):
        # empty lines before it, so that a traceback names the page's own line
        code = compile("\n" * line + text, str(page), "exec")
        exec(code, namespace)  # noqa: S102 - the page is ours


def commands():
    return [
        pytest.param(shlex.split(text, comments=True)[1:], id=f"{name(page)}:{first + number}")
        for page in PAGES
        for first, block in blocks(page, "bash")
        for number, text in enumerate(block.splitlines(), 1)
        if text.startswith("quantmux ") and not PLACEHOLDER.search(text.partition("#")[0])
    ]


@pytest.mark.parametrize("arguments", commands())
def test_commands_of_the_pages_run(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write files
    assert main(arguments) == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_of_a_page_lead_somewhere(page):
    # in a span of code, as in `fp8_e4m3[1x128](eps=1)`, brackets are no link
    prose = re.sub(r"`[^`\n]*`", "", page.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", prose)
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:docs|examples|core|backends|tests|benchmarks)/[\w./-]+)`", text)
    missing = [path for path in named if not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("page", with_blocks("toml"), ids=name)
def test_toml_of_a_page_is_a_valid_policy(page):
    for line, text in blocks(page, "toml"):
        if "build-system" in text or "[project" in text:
            continue  # of a pyproject.toml
        parse_policy(text, f"{name(page)} block at line {line}")


def quotes():
    pattern = re.compile(r"<!-- file: (\S+) -->\n```py\n(.*?)```", re.DOTALL)
    return [
        pytest.param(*match.groups(), id=f"{name(page)}-{number}")
        for page in PAGES
        for number, match in enumerate(pattern.finditer(page.read_text(encoding="utf-8")), 1)
    ]


@pytest.mark.parametrize(("file", "text"), quotes())
def test_quoted_code_stands_in_its_file(file, text):
    assert text in (ROOT / file).read_text(encoding="utf-8")


def test_every_python_block_is_run_or_quoted():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        loose = re.findall(r"(?<! -->)\n```py\n", text)
        assert not loose, f"{name(page)}: a block that nobody checks"


def table(title):
    """Give the rows of the table under a heading of the reference: key → default."""
    section = REFERENCE.read_text(encoding="utf-8").partition(f"\n## {title}\n")[2]
    assert section, f"no section {title}"
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]*) \|", section.partition("\n## ")[0], re.MULTILINE)
    return {key: default.strip().strip("`") for key, default in rows}


def spelled(value):
    """Spell a default as TOML does."""
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "none"
    if isinstance(value, dict):
        return "{}"
    return f'"{value}"' if isinstance(value, str) else str(value)


def test_reference_has_every_key_of_policy_with_its_default():
    defaults = {key: spelled(getattr(Policy(), key)) for key in CHOICES if key != "fallback"}
    assert table("`[policy]`") == defaults


def test_reference_has_every_stage_of_fallback_with_its_default():
    defaults = {stage: spelled(getattr(FallbackPolicy(), stage)) for stage in STAGES}
    assert table("`[policy.fallback]`") == defaults


def test_reference_has_every_key_of_a_plugin_with_its_default():
    plugin = PluginSettings()
    defaults = {key: spelled(getattr(plugin, key)) for key in PluginSettings.model_fields}
    assert table("`[plugins.NAME]`") == defaults


def test_reference_has_every_key_that_says_where_a_rule_holds():
    assert list(table("`[[rule]]`")) == list(MATCHERS)


def test_numbers_of_words_match_the_code():
    """concepts.md lists every preset that exists, and none that does not."""
    text = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    listed = re.search(r"<!-- schemes -->(.*?)<!-- end -->", text, re.DOTALL).group(1)
    assert set(re.findall(r"^\| `([^`]+)`", listed, re.MULTILINE)) == set(qm.config.SCHEMES)
    codes = (ROOT / "docs" / "selection.md").read_text(encoding="utf-8")
    listed = re.search(r"<!-- codes -->(.*?)<!-- end -->", codes, re.DOTALL).group(1)
    assert set(re.findall(r"`([a-z_]+)`", listed)) == {str(c) for c in qm.RejectionCode}
