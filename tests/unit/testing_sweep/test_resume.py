"""The journal: what was answered survives the end of the sweep, whatever ended it."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quantmux.errors import ConfigError, QuantmuxError
from quantmux.testing.cell import Verdict
from quantmux.testing.sweep_journal import read_journal
from quantmux.testing.sweep_record import record_sweep

SWEEP = """
import sys
from pathlib import Path
from quantmux.testing.sweep import Plugins, sweep
result = sweep(plugins=Plugins(factory="quantmux_test_engine:registry"),
               engine="quantmux_test_engine", device="cpu", jobs=2)
print("interrupted" if result.interrupted else "done", len(result.results))
"""


def started(fake, checks, *, answers):
    """Start a sweep in a process of its own; give it when so many cells are answered."""
    environment = fake.environment(checks)
    process = subprocess.Popen(
        [sys.executable, "-c", SWEEP], env=environment, stdout=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if fake.journal.exists() and len(fake.journal.read_bytes().splitlines()) > answers:
            return process
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("nothing was answered")


def in_journal(fake):
    lines = [json.loads(line) for line in fake.journal.read_text().splitlines()[1:]]
    return [line["cell"] for line in lines if "cell" in line]


def test_a_second_sweep_keeps_all_answers(fake):
    fake.sweep("agrees fails")
    again = fake.sweep("agrees fails")
    assert again.kept == len(again.results) == 12
    assert set(fake.runs().values()) == {1}
    assert len(again.failures) == 2


def test_what_was_not_here_is_asked_again(fake):
    fake.sweep("agrees not_here")
    again = fake.sweep("agrees not_here")
    assert again.kept == 10
    assert again.counts[Verdict.NOT_HERE] == 2


def test_fresh_asks_everything_anew_and_keeps_the_answers_of_others(fake):
    fake.sweep("agrees fails")
    again = fake.sweep("fails", resume=False)
    assert again.kept == 0
    assert counts_of(fake.runs(), "fails") == {2}
    assert fake.sweep("agrees fails").kept == 12


def counts_of(runs, check):
    return {count for name, count in runs.items() if f"::{check}[" in name}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_was_killed_goes_on_where_it_was(fake, monkeypatch, how):
    monkeypatch.setenv("TEST_CELLS", "10")
    process = started(fake, "slow", answers=4)
    process.send_signal(how)
    printed, _ = process.communicate(timeout=30)
    answered = in_journal_whole(fake)
    assert 4 <= len(answered) < 20
    assert ("interrupted" in printed) == (how is signal.SIGINT)
    ran_before = fake.runs()
    _wait_for_workers(fake)
    result = fake.sweep("slow", jobs=2)
    assert result.kept == len(answered)
    assert len(result.results) == 20
    # nothing is lost, and nothing is run twice but what two workers were at when it ended
    twice = [name for name, count in fake.runs().items() if count > 1]
    assert len(twice) <= 2
    assert not set(twice) & set(answered)
    assert all(count == 1 for count in ran_before.values())
    names = in_journal(fake)
    assert len(names) == len(set(names)) == 20


def in_journal_whole(fake):
    whole = fake.journal.read_bytes()
    whole = whole[: whole.rfind(b"\n") + 1]
    return [json.loads(line)["cell"] for line in whole.splitlines()[1:]]


def _wait_for_workers(fake):
    until = time.monotonic() + 20
    while time.monotonic() < until:
        left = [pid for pid in fake.pids() if _runs(pid)]
        if not left:
            return
        time.sleep(0.05)
    raise AssertionError(f"workers outlive their sweep: {left}")


def _runs(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_worker_that_hangs_does_not_outlive_a_sweep_that_was_killed(fake):
    process = started(fake, "agrees hangs", answers=3)
    time.sleep(0.3)  # the cells that hang have begun
    process.kill()
    process.communicate()
    _wait_for_workers(fake)
    assert any("::hangs[hangs 0]" in name for name in fake.runs())


def test_killing_a_worker_costs_the_cell_it_was_at_and_no_other(fake, monkeypatch):
    monkeypatch.setenv("TEST_CELLS", "10")
    process = started(fake, "slow", answers=4)
    os.kill(fake.pids()[-1], signal.SIGKILL)
    printed, _ = process.communicate(timeout=60)
    assert printed.split() == ["done", "20"]
    result = fake.sweep("slow")
    assert result.kept == 20
    assert len(result.failures) <= 1
    assert all("SIGKILL" in outcome.reason for _, outcome in result.failures)
    assert set(fake.runs().values()) == {1}


def test_a_kernel_whose_digest_changed_is_asked_anew_and_no_other(fake, monkeypatch):
    fake.sweep("agrees")
    monkeypatch.setenv("TEST_KERNEL_VERSION", "2")
    again = fake.sweep("agrees")
    assert again.kept == 3
    ran = fake.runs()
    assert {name for name, count in ran.items() if count == 2} == {
        f"acme/one::agrees[agrees {i}]" for i in range(3)
    }


def test_a_line_that_was_cut_off_is_asked_anew(fake):
    fake.sweep("agrees")
    content = fake.journal.read_bytes()
    fake.journal.write_bytes(content[:-20])
    again = fake.sweep("agrees")
    assert again.kept == 5
    assert again.counts == {Verdict.AGREES: 6}
    assert len(fake.journal.read_bytes().splitlines()) == 7


def test_a_journal_cut_at_any_byte_goes_on_and_invents_nothing(fake):
    fake.sweep("agrees fails")
    content = fake.journal.read_bytes()
    answers = read_journal(fake.journal).answers
    ends = [i for i, byte in enumerate(content) if byte == 10]
    for size in range(len(content)):
        fake.journal.write_bytes(content[:size])
        kept = read_journal(fake.journal)
        assert len(kept.answers) == max(0, sum(end < size for end in ends) - 1)
        assert kept.answers.items() <= answers.items()
    for size in (0, 5, 40, ends[0], ends[0] + 1, ends[4] + 9):
        fake.journal.write_bytes(content[:size])
        again = fake.sweep("agrees fails")
        assert len(again.results) == 12
        assert read_journal(fake.journal).answers.keys() == answers.keys()


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 200_000,
        b'{"cell": 1}',
        b'{"cell": "x", "stamp": "", "verdict": "agrees", "error": "much"}',
        b'{"forget": 5}',
        b'{"forget": [{}]}',
        b"\xff\xfe\x00",
        b"\x00" * 512,
    ],
)
def test_a_line_of_any_nonsense_is_refused_with_its_number(fake, line):
    fake.sweep("agrees")
    with fake.journal.open("ab") as journal:
        journal.write(line + b"\n")
    with pytest.raises(ConfigError) as caught:
        fake.sweep("agrees")
    assert "line 8 is" in caught.value.facts[0]


def test_a_damaged_line_is_refused_with_its_number(fake):
    fake.sweep("agrees")
    lines = fake.journal.read_bytes().splitlines(keepends=True)
    fake.journal.write_bytes(b"".join([*lines[:3], b"{nonsense\n", *lines[4:]]))
    with pytest.raises(ConfigError, match="cannot be resumed") as caught:
        fake.sweep("agrees")
    assert "line 4 is damaged" in caught.value.facts[0]
    fresh = fake.sweep("agrees", resume=False)
    assert fresh.kept == 0
    assert fake.journal.with_name("journal.1.jsonl").read_bytes().count(b"nonsense") == 1
    assert "kept as journal.1.jsonl" in fresh.notes[0]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"header": {"schema": 9}}, "of schema 9, this version reads 1"),
        ({"rows": []}, "no header of a journal"),
        ([1, 2], "line 1 is damaged"),
    ],
)
def test_a_file_of_another_kind_is_refused_and_never_overwritten(fake, header, said):
    text = json.dumps(header) + "\n"
    fake.journal.parent.mkdir(parents=True)
    fake.journal.write_text(text)
    with pytest.raises(ConfigError) as caught:
        fake.sweep("agrees")
    assert said in caught.value.facts[0]
    assert fake.journal.read_text() == text


def test_a_journal_with_another_seed_is_begun_anew_unless_resuming_was_asked_for(fake):
    fake.sweep("agrees")
    with pytest.raises(ConfigError, match="cannot be resumed") as caught:
        fake.sweep("agrees", seed=1, resume=True)
    assert caught.value.facts == ("the seed: 0 then, 1 now",)
    again = fake.sweep("agrees", seed=1)
    assert again.kept == 0
    assert "the seed: 0 then, 1 now" in again.notes[0]
    assert fake.journal.with_name("journal.1.jsonl").exists()


def test_two_sweeps_do_not_share_a_journal(fake, monkeypatch):
    monkeypatch.setenv("TEST_CELLS", "10")
    process = started(fake, "slow", answers=1)
    try:
        with pytest.raises(ConfigError, match="another sweep is writing") as caught:
            fake.sweep("slow")
        assert caught.value.code == "journal_busy"
    finally:
        process.kill()
        process.communicate()


def test_a_journal_that_cannot_be_written_is_named(fake, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(QuantmuxError, match="cannot be written"):
        fake.sweep("agrees", out=blocked / "sweep")


def test_a_full_disk_ends_the_sweep_and_keeps_what_was_answered(fake, monkeypatch):
    monkeypatch.setenv("TEST_CELLS", "10")
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, kept[1]))
    try:
        with pytest.raises(QuantmuxError, match="cannot be written") as caught:
            fake.sweep("agrees")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
    assert caught.value.code == "journal_write"
    again = fake.sweep("agrees")
    assert 3 < again.kept < 20
    assert len(again.results) == 20


def test_what_is_recorded_is_of_the_day_of_its_oldest_answer(fake, tmp_path):
    fake.sweep("agrees fails")
    *others, last = fake.journal.read_text().splitlines()
    answers = [json.loads(line) for line in others[1:]]
    assert answers[0]["kernel"] == "acme/one"
    answers[0]["at"] = "2026-01-02T03:04:05+00:00"
    lines = [others[0], *map(json.dumps, answers), last]
    fake.journal.write_text("".join(f"{line}\n" for line in lines))
    result = fake.sweep("agrees fails")
    assert result.kept == 12
    (file,) = record_sweep(result, str(tmp_path / "evidence")).files
    days = {row["kernel"]: row["date"] for row in json.loads(file.read_text())["rows"]}
    assert days["acme/one"] == "2026-01-02"
    assert days["acme/two"] > "2026-01-02"
