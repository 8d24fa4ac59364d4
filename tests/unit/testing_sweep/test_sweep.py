"""The sweep with a fake engine: whatever a cell does to its process, it is answered for."""

import time
from pathlib import Path

import pytest

from quantmux.capability.profiles import PROFILES
from quantmux.errors import ConfigError, QuantmuxError
from quantmux.testing.cell import Verdict
from quantmux.testing.sweep import Selection


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # nobody waits for an orphan here; a zombie is as good as gone


def test_every_cell_is_answered_once_and_in_order(fake):
    result = fake.sweep("agrees refuses not_here fails")
    assert [c.id for c, _ in result.results] == [c.id for c in result.cells]
    assert len(result.cells) == 24
    assert set(fake.runs().values()) == {1}
    assert result.counts == {
        Verdict.AGREES: 18,
        Verdict.REFUSES: 2,
        Verdict.NOT_HERE: 2,
        Verdict.FAILS: 2,
    }
    assert not result.interrupted
    assert result.kept == 0


@pytest.mark.parametrize(
    ("check", "code", "said"),
    [
        ("raises", "raised", "RuntimeError: no such luck"),
        ("exits_politely", "raised", "SystemExit: 3"),
        ("says_nothing", "raised", "gave a NoneType"),
        ("exits", "crash", "exit code 3"),
        ("crashes", "crash", "SIGSEGV in string_at"),
        ("killed", "crash", "SIGKILL"),
        ("leaves_a_child", "crash", "exit code 7"),
        ("closes_everything", "crash", "exit code 1"),
        ("writes_rubbish", "channel", "wrote rubbish"),
        ("says_half_an_answer", "channel", "it answered 1 when asked"),
        ("answers_with_nonsense", "channel", "wrote rubbish"),
        ("nests", "channel", "wrote rubbish"),
        ("floods_the_channel", "channel", "wrote rubbish"),
        ("loses_the_gpu", "context_poisoned", "illegal memory access"),
        ("breaks_the_gpu_unnoticed", "context_poisoned", "lost: CUDA error: an illegal"),
        ("raises_a_lost_gpu", "context_poisoned", "illegal memory access"),
    ],
)
def test_a_cell_that_takes_its_process_along_fails_and_the_rest_goes_on(fake, check, code, said):
    result = fake.sweep(f"agrees {check} refuses")
    bad = [(c, o) for c, o in result.failures]
    assert [c.label for c, _ in bad] == [f"{check} 0"] * 2
    assert {o.code for _, o in bad} == {code}, bad
    assert all(said in o.reason for _, o in bad), bad
    assert len(result.results) == len(result.cells) == 18
    assert {n for name, n in fake.runs().items() if "::" in name} == {1}
    assert not any(alive(pid) for pid in fake.pids())


@pytest.mark.parametrize("check", ["hangs", "hangs_in_c"])
def test_a_cell_that_hangs_is_ended_and_where_it_was_is_told(fake, check):
    result = fake.sweep(f"agrees {check}", timeout=1.0, selection=Selection(kernels=("acme/one",)))
    ((cell, outcome),) = result.failures
    assert cell.label == f"{check} 0"
    assert outcome.code == "timeout"
    assert "no answer after 1 s" in outcome.reason
    assert f"_{check} (quantmux_test_engine.py" in outcome.reason
    assert len(result.results) == 6


def test_a_cell_that_prints_without_end_is_ended_in_time(fake):
    began = time.monotonic()
    selection = Selection(kernels=("acme/one",))
    result = fake.sweep("agrees prints_without_end", timeout=1.0, selection=selection)
    ((_, outcome),) = result.failures
    assert outcome.code == "timeout"
    assert len(result.results) == 6
    assert time.monotonic() - began < 20.0


def test_a_cell_that_takes_all_memory_is_ended(fake):
    one = Selection(kernels=("acme/one",))
    result = fake.sweep("agrees takes_all_memory", memory_gib=0.75, selection=one)
    ((cell, outcome),) = result.failures
    assert cell.label == "takes_all_memory 0"
    assert outcome.code == "memory"
    assert "the limit is 0.8 GiB" in outcome.reason
    assert len(result.results) == 6


def test_a_kernel_that_always_crashes_is_given_up_and_no_other(fake, monkeypatch):
    monkeypatch.setenv("TEST_ALWAYS", "acme/one")
    monkeypatch.setenv("TEST_CELLS", "8")
    result = fake.sweep("exits", give_up=3)
    one = [o for c, o in result.results if c.kernel == "acme/one"]
    assert [o.code for o in one] == ["crash"] * 3 + ["given_up"] * 5
    assert "not run: 3 cells of it took their process along, exits[exits 0] first" in one[-1].reason
    assert sum(o.verdict is Verdict.AGREES for _, o in result.results) == 7
    assert fake.sweep("exits", give_up=0, resume=False).counts[Verdict.FAILS] == 9
    assert {c for n, c in fake.runs().items() if "one::" in n} == {1, 2}


def test_what_a_kernel_prints_disturbs_nothing(fake):
    result = fake.sweep("prints agrees")
    assert result.counts == {Verdict.AGREES: 12}


def test_the_child_of_a_kernel_that_forks_says_nothing(fake):
    result = fake.sweep("forks agrees")
    assert result.counts == {Verdict.AGREES: 12}
    assert set(fake.runs().values()) == {1}


def test_an_error_that_is_no_number_survives_the_journal(fake):
    fake.sweep("fails")
    result = fake.sweep("fails")
    assert result.kept == 6
    assert [o.error for _, o in result.failures] == [float("inf")] * 2
    assert [f["error"] for f in result.to_dict()["failures"]] == [None, None]


def test_cells_that_compile_run_where_triton_does_not_interpret(fake, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    result = fake.sweep("agrees compiles")
    compiled = [o.reason for c, o in result.results if c.check == "compiles"]
    assert compiled == ["TRITON_INTERPRET is None"] * 6
    assert len(set(fake.pids())) > 1


def test_a_worker_that_sees_other_plugins_is_not_believed(fake):
    with pytest.raises(QuantmuxError, match="3 in a row") as caught:
        fake.sweep("agrees", factory="registry_that_differs")
    assert "other plugins" in caught.value.facts[0]
    assert fake.runs() == {}


def test_workers_that_cannot_be_set_up_end_the_sweep_with_their_last_words(fake):
    with pytest.raises(QuantmuxError, match="3 in a row") as caught:
        fake.sweep("agrees", factory="registry_that_dies")
    assert "exit code 9" in caught.value.facts[0]
    assert "cannot live here" in str(caught.value)


def test_a_plugin_that_failed_is_in_the_result(fake):
    result = fake.sweep("agrees", factory="registry_with_a_broken_plugin")
    assert [record.name for record in result.failed_plugins] == ["broken"]
    only = fake.sweep(
        "agrees", factory="registry_with_a_broken_plugin", selection=Selection(("acme",))
    )
    assert only.failed_plugins == ()


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        (Selection(backends=("acmee",)), 'no backend "acmee"'),
        (Selection(kernels=("acme/three",)), 'no kernel "acme/three"'),
        (Selection(ops=("linaer",)), 'no op "linaer"'),
        (Selection(checks=("numbres",)), 'no check "numbres"'),
        (Selection(labels=("nothing",)), "nothing to sweep"),
    ],
)
def test_refuses_what_does_not_exist(fake, selection, said):
    with pytest.raises(ConfigError, match=said):
        fake.sweep("agrees", selection=selection)


@pytest.mark.parametrize("name", ["jobs", "timeout", "memory_gib"])
def test_refuses_numbers_that_make_no_sense(fake, name):
    with pytest.raises(ConfigError, match="must be more than 0"):
        fake.sweep("agrees", **{name: 0})


def test_a_label_picks_its_cells(fake):
    result = fake.sweep("agrees", selection=Selection(labels=("agrees 1",)))
    assert [c.label for c in result.cells] == ["agrees 1", "agrees 1"]


def test_several_workers_share_the_cells(fake, monkeypatch):
    monkeypatch.setenv("TEST_CELLS", "12")
    result = fake.sweep("slow", jobs=3)
    assert len(result.results) == 24
    assert len(set(fake.pids())) >= 2
    assert set(fake.runs().values()) == {1}


def gpu(index, name="h200"):
    return PROFILES[name].replace(is_present=True, index=index)


@pytest.mark.parametrize(
    ("shown", "only", "jobs", "worlds"),
    [
        (None, False, None, ["0", "2"]),
        ("4,5,7", False, None, ["4", "7"]),
        (None, True, None, ["2"]),
        (None, False, 3, ["0", "2", "0"]),
    ],
)
def test_a_worker_sees_one_gpu_and_those_of_another_model_are_left_out(
    monkeypatch, shown, only, jobs, worlds
):
    from quantmux.testing import sweep_slots

    here = (gpu(0), gpu(1, "a100"), gpu(2))
    monkeypatch.setattr(sweep_slots, "detect_devices", lambda: here)
    if shown is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    slots = sweep_slots.worker_slots(here[2], jobs, only=only)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots] == worlds


def test_workers_on_a_cpu_share_its_threads(monkeypatch):
    from quantmux.testing import sweep_slots

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(sweep_slots, "default_jobs", lambda: 8)
    slots = sweep_slots.worker_slots(PROFILES["cpu"], 2, only=False)
    assert slots == ({"OMP_NUM_THREADS": "4"},) * 2


def test_workers_on_a_gpu_share_the_host_s_threads(monkeypatch):
    from quantmux.testing import sweep_slots

    monkeypatch.setattr(sweep_slots, "detect_devices", lambda: (gpu(0),))
    monkeypatch.setattr(sweep_slots, "default_jobs", lambda: 16)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    slots = sweep_slots.worker_slots(gpu(0), 15, only=True)
    assert slots == ({"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "0"},) * 15
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    slots = sweep_slots.worker_slots(gpu(0), 2, only=True)
    assert slots == ({"CUDA_VISIBLE_DEVICES": "0"},) * 2


def test_memory_is_shared_and_what_the_user_says_counts(monkeypatch):
    from quantmux.testing import sweep_slots

    monkeypatch.setattr(sweep_slots, "machine_memory", lambda: 100 * 2**30)
    assert sweep_slots.memory_limit(4, None) == 20 * 2**30
    assert sweep_slots.memory_limit(80, None) == 4 * 2**30
    assert sweep_slots.memory_limit(4, 1.5) == 3 * 2**29


def test_kernels_are_summed_up(fake):
    result = fake.sweep("agrees fails not_here")
    one, two = result.kernels()
    assert (one.kernel, two.kernel) == ("acme/one", "acme/two")
    assert one.counts == {Verdict.AGREES: 7, Verdict.FAILS: 1, Verdict.NOT_HERE: 1}
    assert one.worst_error == 0.25
    assert one.first_failure == "fails[fails 0]: wrong numbers"
    assert one.missing == 0
