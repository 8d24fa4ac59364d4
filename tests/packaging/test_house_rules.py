"""House rules that a linter cannot say, each with the place where it is broken."""

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MAX_LINES = 500
SOURCES = {".py", ".cu", ".cuh", ".h", ".hpp", ".cpp", ".toml"}
# Written so that this file does not match itself.
MACHINE_PATH = re.compile(r"(?<![\w.~}\])-])/(?:work|root|home|Users|opt/(?:wheels|pypi))(?![\w-])")
REGISTRY_HOST = re.compile(r"pypi\.org|python[h]osted|registry\.npm|download\.pytorch\.org")


def tracked(root: Path) -> list[Path]:
    """The repository's files; in an unpacked sdist, where there is no git, all but the hidden."""
    if (root / ".git").exists() and (git := shutil.which("git")):
        listed = subprocess.run(
            [git, "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True
        ).stdout
        paths = [root / name for name in listed.split("\0") if name]
    else:
        paths = [
            path
            for path in root.rglob("*")
            if "__pycache__" not in path.parts and path.relative_to(root).parts[0][0] != "."
        ]
    return [path for path in paths if path.is_file()]


def _syntax(where: str, tree: ast.AST) -> Iterator[str]:
    parts = where.split("/")
    product = parts[0] in {"core", "backends"}
    for node in ast.walk(tree):
        match node:
            case ast.ExceptHandler(type=None):
                yield f"{where}:{node.lineno}: bare except"
            case ast.Assert() if product and "testing" not in parts:
                yield f"{where}:{node.lineno}: assert; a user's mistake needs an error of errors.py"
            case ast.Call(func=ast.Name(id="print")):
                if parts[0] == "core" and parts[:3] != ["core", "quantmux", "cli"]:
                    yield f"{where}:{node.lineno}: print outside the cli"


def broken(root: Path, paths: list[Path]) -> Iterator[str]:
    for path in paths:
        where = path.relative_to(root).as_posix()
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        lines = text.splitlines()
        source = where.startswith(("core/", "backends/")) and path.suffix in SOURCES
        if source and len(lines) > MAX_LINES:
            yield f"{where}: {len(lines)} lines, more than {MAX_LINES}"
        for number, line in enumerate(lines, 1):
            if MACHINE_PATH.search(line):
                yield f"{where}:{number}: a path of one machine"
            if REGISTRY_HOST.search(line):
                yield f"{where}:{number}: the host of a package registry"
        if path.suffix == ".py":
            yield from _syntax(where, ast.parse(text, where))


def test_the_tree_keeps_the_house_rules():
    paths = tracked(ROOT)
    assert paths, "nothing to check"
    bad = list(broken(ROOT, paths))
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize(
    ("where", "text", "said"),
    [
        ("core/quantmux/a.py", "\n" * 501, "501 lines"),
        ("backends/cutlass/quantmux_cutlass/a.cu", "\n" * 501, "501 lines"),
        ("tests/a.py", "try:\n pass\nexcept:\n pass", "tests/a.py:3: bare except"),
        ("backends/torch/quantmux_torch/a.py", "assert x", "assert"),
        ("core/quantmux/ops/a.py", "print(1)", "print"),
        ("README.md", "see /" + "home/me/models", "a path of one machine"),
        ("a.json", '"/' + 'root/x"', "a path of one machine"),
        ("Makefile", "--index-url https://pypi" + ".org/simple", "registry"),
    ],
)
def test_sees_a_broken_rule(tmp_path, where, text, said):
    path = tmp_path / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    (found,) = broken(tmp_path, tracked(tmp_path))
    assert said in found


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("tests/a.py", "\n" * 501 + "assert x\nprint(1)"),
        ("core/quantmux/testing/a.py", "assert x"),
        ("core/quantmux/cli/a.py", "print(1)"),
        ("core/quantmux/a.py", "try:\n pass\nexcept OSError:\n pass"),
        ("docs/a.md", "frame-work/root, and/home; https://host/home/x; ./work; ~/work"),
        ("backends/torch/quantmux_torch/evidence/a.json", "\n" * 501),
    ],
)
def test_accepts_what_the_rules_allow(tmp_path, where, text):
    path = tmp_path / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    assert list(broken(tmp_path, tracked(tmp_path))) == []
