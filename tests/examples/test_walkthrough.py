"""docs/writing-a-backend.md is followed word for word, from an empty folder.

Its files are those of blocks behind ``<!-- write: NAME -->``, its commands those behind
``<!-- run -->`` (``<!-- run: fails -->`` where the page says so), and a block behind
``<!-- shows -->`` holds lines that the last commands print, with … for what differs.
"""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "writing-a-backend.md"
EXAMPLE = ROOT / "examples" / "acme_backend"

STEP = re.compile(r"<!-- (write|run|shows)(?:: (\S+))? -->\n```\w+\n(.*?)\n?```", re.DOTALL)
STEPS = [match.groups() for match in STEP.finditer(PAGE.read_text(encoding="utf-8"))]


def test_the_page_has_steps_of_every_kind():
    kinds = [kind for kind, *_ in STEPS]
    assert {kind: kinds.count(kind) for kind in ("write", "run", "shows")} == {
        "write": 3,
        "run": 9,
        "shows": 7,
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [(name, text) for kind, name, text in STEPS if kind == "write"],
    ids=lambda value: value if len(value) < 50 else "",
)
def test_the_example_is_the_files_of_the_page(name, text):
    assert (EXAMPLE / name).read_text(encoding="utf-8") == text + "\n"


@pytest.mark.slow
def test_the_page_works_word_for_word(fresh_environment, tmp_path):
    environment = fresh_environment("walkthrough")
    variables = environment.variables(
        QUANTMUX_CACHE_DIR=str(tmp_path / "user"), OMP_NUM_THREADS="1", COLUMNS="100"
    )
    folder = tmp_path / "empty"
    folder.mkdir()
    printed = ""
    for number, (kind, name, text) in enumerate(STEPS, 1):
        if kind == "write":
            (folder / name).write_text(text + "\n", encoding="utf-8")
        elif kind == "shows":
            for line in text.splitlines():
                assert pattern_of(line).search(squeezed(printed)), (
                    f"step {number}: not printed: {line}\n--- printed was\n{printed}"
                )
        else:
            done = subprocess.run(
                ["bash", "-e", "-o", "pipefail", "-c", text],
                cwd=folder,
                env=variables,
                capture_output=True,
                text=True,
                check=False,
                timeout=240,
            )
            printed = done.stdout + done.stderr
            assert (done.returncode != 0) == (name == "fails"), f"step {number}: {text}\n{printed}"
    for kind, name, text in STEPS:
        if kind == "write":
            left = (folder / name).read_text(encoding="utf-8")
            assert left == text + "\n", f"the page leaves {name} broken"


def squeezed(text):
    """Give lines with single spaces: columns are as wide as their widest entry."""
    return "\n".join(" ".join(line.split()) for line in text.splitlines())


def pattern_of(line):
    parts = [re.escape(" ".join(part.split())) for part in re.split("…", line)]
    wild = r"[^\n]*"
    return re.compile("^ ?" + wild.join(parts), re.MULTILINE)
