"""``quantmux quarantine``: what is kept away, why, and letting it be tried again."""

import json
import subprocess
import sys
import time

import pytest

from quantmux.capability.detect import HERE_CPU
from quantmux.registry.default import default_registry
from quantmux.registry.user_folder import user_folder
from quantmux.runtime.context import Context
from quantmux.runtime.quarantine import Quarantine
from quantmux.runtime.quarantine_file import QuarantineFile
from quantmux.runtime.quarantine_ground import Ground

DAY = 86400.0
KERNEL = "torch/quantize"


@pytest.fixture
def kept():
    """Three entries: one holds, one is of other sources, one of another machine."""
    made = Quarantine(QuarantineFile())
    ground = Context(default_registry(), made).ground(KERNEL, HERE_CPU)
    made.add(KERNEL, "cpu", "its self-check failed", ground=ground, expires_in=14 * DAY)
    old = Ground("0" * 16, ground.driver, ground.versions)
    made.add("torch/relayout", "cpu", "no compiler", ground=old, expires_in=DAY)
    made.add("acme/gemm", "b200", "nvcc raised", expires_in=DAY)
    return made


def held(answer):
    return {e["kernel"]: e["holds"] for e in answer.json["entries"]}


def test_nothing_in_quarantine_says_so(cli):
    for args in ((), ("ls",)):
        answer = cli("quarantine", *args)
        assert (answer.code, answer.out) == (0, "nothing is in quarantine\n")
    data = cli("quarantine", "ls", "--json").json
    assert data == {"file": str(user_folder() / "quarantine.json"), "problem": "", "entries": []}


@pytest.mark.usefixtures("kept")
def test_ls_tells_what_holds_and_why_the_rest_does_not(cli):
    answer = cli("quarantine", "ls", "--json")
    assert held(answer) == {KERNEL: True, "torch/relayout": False, "acme/gemm": False}
    reasons = {e["kernel"]: e["why_not"] for e in answer.json["entries"]}
    assert reasons[KERNEL] == ""
    assert reasons["torch/relayout"].startswith("sources changed: digest 00000000 then")
    assert reasons["acme/gemm"] == "no such kernel here"
    text = cli("quarantine", "ls").out
    assert "its self-check failed" in text
    assert time.strftime("%Y-%m-%d", time.gmtime()) in text
    assert "no longer applies" in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.usefixtures("kept")
def test_device_narrows_both(cli):
    assert list(held(cli("quarantine", "ls", "--device", "b200", "--json"))) == ["acme/gemm"]
    answer = cli("quarantine", "clear", "--all", "--device", "cpu", "--json")
    assert {e["kernel"] for e in answer.json["cleared"]} == {KERNEL, "torch/relayout"}
    assert list(held(cli("quarantine", "ls", "--json"))) == ["acme/gemm"]


@pytest.mark.usefixtures("kept")
def test_clear_lets_a_kernel_be_tried_again(cli):
    answer = cli("quarantine", "clear", KERNEL, "acme/gemm")
    assert answer.code == 0
    assert answer.out.splitlines() == [
        f"{KERNEL} may be tried again on cpu",
        "acme/gemm may be tried again on b200",
    ]
    assert list(held(cli("quarantine", "ls", "--json"))) == ["torch/relayout"]
    again = cli("quarantine", "clear", KERNEL)
    assert (again.code, again.out) == (0, "nothing of that is in quarantine\n")


def test_clear_is_seen_by_a_running_process(cli, kept):
    running = Context(default_registry(), Quarantine(QuarantineFile()))
    assert KERNEL in running.inventory(HERE_CPU).blocked
    cli("quarantine", "clear", "--all")
    running.quarantine.look()
    assert KERNEL not in running.inventory(HERE_CPU).blocked
    kept.look()
    assert kept.entries() == ()


@pytest.mark.usefixtures("kept")
def test_doctor_and_explain_show_it(cli):
    data = cli("doctor", "--device", "cpu", "--json").json["quarantine"]
    assert list(data["kernels"]) == [KERNEL]
    assert "its self-check failed" in data["kernels"][KERNEL]
    text = cli("doctor", "--device", "cpu").out
    assert "quarantine on cpu" in text
    shown = cli("explain", "quantize", "--operand", "fp8_token", "--n", "256", "--device", "cpu")
    assert "its self-check failed" in " ".join(shown.out.split())


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("clear", "torch/quantise"), ['no kernel "torch/quantise"', 'mean "torch/quantize"?']),
        (("clear", "acme/gem"), ["in quarantine: acme/gemm", 'mean "acme/gemm"?']),
        (("clear",), ["takes kernels, or --all"]),
        (("clear", KERNEL, "--all"), ["not both"]),
        (("ls", KERNEL), [f"quantmux quarantine clear {KERNEL}"]),
        (("ls", "--all"), ["clear --all"]),
        (("cleer",), ['did you mean "clear"?']),
        (("ls", "--device", "h2000"), ["h2000"]),
    ],
)
@pytest.mark.usefixtures("kept")
def test_a_wrong_request_is_exit_2_and_changes_nothing(cli, args, words):
    answer = cli("quarantine", *args)
    assert answer.code == 2
    assert all(word in answer.err for word in words), answer.err
    assert len(held(cli("quarantine", "ls", "--json"))) == 3


def test_a_broken_file_is_told_of(cli):
    user_folder().mkdir(parents=True, exist_ok=True)
    (user_folder() / "quarantine.json").write_text('{"schema": 1, "ro')
    answer = cli("quarantine", "ls")
    assert answer.code == 0
    assert "perhaps cut short" in answer.err
    assert "perhaps cut short" in cli("quarantine", "ls", "--json").json["problem"]


def test_what_cannot_be_cleared_is_an_error(cli, kept):
    file = user_folder() / "quarantine.json"
    data = json.loads(file.read_text())
    kept.clear()
    file.write_text(json.dumps({**data, "schema": 2}))
    answer = cli("quarantine", "clear", "--all", "--json")
    assert answer.code == 2
    assert answer.json["error"]["code"] == "quarantine_write"
    assert "schema 2" in answer.err
    assert json.loads(file.read_text())["schema"] == 2


@pytest.mark.usefixtures("kept")
def test_neither_action_loads_torch():
    probe = (
        "import sys; from quantmux.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    for args in (("ls",), ("clear", "--all")):
        command = [sys.executable, "-c", probe, "quarantine", *args]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
