"""Making libraries, and every way in which that goes wrong. The compiler is a strict fake."""

from __future__ import annotations

import resource
import signal
import threading
import time
from pathlib import Path

import pytest

from quantmux.errors import BuildError
from quantmux.runtime.quarantine_expiry import LASTING, TRANSIENT, expires_in
from quantmux_cutlass.build.background import end_builds
from quantmux_cutlass.build.failures import find_failure
from quantmux_cutlass.build.known import know
from quantmux_cutlass.build.maker import build_in_background, build_many, build_now
from quantmux_cutlass.build.making import make
from quantmux_cutlass.build.settings import cache_folder
from quantmux_cutlass.build.state import State, state_of


def refused(unit, target="90a", **more):
    with pytest.raises(BuildError) as caught:
        build_now(unit, target, **more)
    return caught.value


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def alive(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_a_library_is_compiled_once_and_then_taken_from_the_cache(machine):
    unit, phases = machine.unit(), []
    assert state_of(unit, "90a")[0] is State.MISSING
    path = build_now(unit, "90a", progress=lambda event: phases.append(event.phase))
    assert phases == ["queued", "compiling", "checking", "done"]
    assert path.is_relative_to(cache_folder())
    assert state_of(unit, "90a") == (State.BUILT, str(path.parent))
    phases.clear()
    assert build_now(unit, "90a", progress=lambda event: phases.append(event.phase)) == path
    assert phases == ["present"]
    assert machine.compiled == 1
    assert machine.left == []


def test_the_record_tells_what_made_it_and_what_it_took(machine):
    record = make(machine.unit(), "90a").entry.record
    assert (record.unit, record.target, record.nvcc) == ("tiny", "90a", "13.0.88")
    assert "g++" in record.host
    assert record.seconds > 0


def test_the_memory_of_a_compilation_is_the_compilers_not_ours(machine):
    record = make(machine.unit(), "90a").entry.record
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert 5 < record.memory_mib < ours / 2
    assert record.cpu_seconds > 0


def test_the_machine_code_lies_beside_the_library_one_file_for_each_part(machine):
    entry = make(machine.unit(targets=("90a+100f",)), "90a+100f").entry
    assert entry.code("90a").read_bytes() == b"code for 90a"
    assert entry.code("100f").read_bytes() == b"code for 100f"
    assert entry.code("120f") is None


def test_a_target_that_the_unit_does_not_have_is_refused(machine):
    assert refused(machine.unit(), "120f").code == "target"


def test_forced_it_is_compiled_anew_and_the_file_of_who_has_it_open_stays(machine):
    path = build_now(machine.unit(), "90a")
    with path.open("rb") as held:
        again = build_now(machine.unit(), "90a", force=True)
        assert again == path
        assert held.read(4) == b"\x7fELF"
    assert machine.compiled == 2


def test_what_does_not_compile_is_not_tried_again_until_something_changes(machine):
    machine.mood("error")
    error = refused(machine.unit())
    assert error.code == "compile"
    assert 'identifier "x" is undefined' in error.facts[-1]
    assert len(error.facts) <= 8
    state, reason = state_of(machine.unit(), "90a")
    assert state is State.FAILED
    assert 'identifier "x"' in reason
    machine.mood("")
    again = refused(machine.unit())
    assert (again.code, machine.compiled) == ("compile", 1)
    assert 'identifier "x" is undefined' in again.facts[-1]
    machine.version("13.1.2")  # another compiler, another key
    assert build_now(machine.unit(), "90a").is_file()


def test_forced_a_failure_is_forgotten(machine):
    machine.mood("error")
    refused(machine.unit())
    machine.mood("")
    build_now(machine.unit(), "90a", force=True)
    known = know(machine.unit(), "90a")
    assert find_failure(known.cache, known.name) is None


def test_of_failures_only_the_last_of_a_unit_and_target_is_kept(machine):
    machine.mood("error")
    for version in ("13.0.88", "13.1.2"):
        machine.version(version)
        refused(machine.unit())
        refused(machine.unit(name="tiny_too"))
    kept = sorted(file.name.rsplit("-", 2)[0] for file in (cache_folder() / "failed").iterdir())
    assert kept == ["tiny-90a", "tiny_too-90a"]


def test_a_source_that_changed_is_another_library(machine):
    first = build_now(machine.unit(), "90a")
    (machine.sources / "tiny.cuh").write_text("#define TINY_VALUE 2.0f\n")
    second = build_now(machine.unit(), "90a")
    assert first != second
    assert machine.compiled == 2


@pytest.mark.parametrize(
    ("mood", "code", "says"),
    [
        ("full", "disk", "No space left"),
        ("killed", "memory", "0.2 GiB"),
        ("nothing", "library", "wrote nothing"),
        ("text", "library", "cannot be loaded"),
        ("crash", "library", "cannot be loaded"),
        ('replace:QM_TARGETS="100f"', "library", "targets: needs 90a, found 100f"),
        ('replace:QM_NAME="other"', "library", "name: needs tiny, found other"),
        ('replace:QM_DIGEST="0.0"', "library", "digest: needs "),
        ("replace:QM_SAID_ABI=7", "library", "ABI version is 7"),
        ("replace:QM_WITHOUT_RUN=1", "library", "does not export qm_run"),
    ],
)
def test_what_is_not_right_never_reaches_the_cache(machine, mood, code, says):
    machine.mood(mood)
    error = refused(machine.unit())
    assert error.code == code
    assert says in str(error)
    assert state_of(machine.unit(), "90a")[0] is not State.BUILT
    assert machine.left == []
    machine.mood("")
    # a full disk and a lack of memory may pass; what is wrong with the input does not
    if code in ("disk", "memory"):
        assert build_now(machine.unit(), "90a").is_file()
    else:
        assert refused(machine.unit()).code == code


def test_a_compiler_that_takes_too_long_is_ended_with_its_children(machine):
    machine.mood("sleep:30")
    with pytest.raises(BuildError) as caught:
        make(machine.unit(), "90a", timeout=5)
    assert caught.value.code == "timeout"
    child = int(machine.log.with_suffix(".child").read_text())
    until(lambda: not alive(child))
    assert machine.left == []


@pytest.mark.parametrize("mood", ["full", "killed", "sleep:30"])
def test_what_passes_by_itself_keeps_a_kernel_away_for_a_day_only(machine, mood):
    machine.mood(mood)
    with pytest.raises(BuildError) as caught:
        make(machine.unit(), "90a", timeout=1)
    assert expires_in(caught.value) == TRANSIENT


def test_what_does_not_compile_keeps_a_kernel_away_for_long(machine):
    machine.mood("error")
    assert expires_in(refused(machine.unit())) == LASTING


def test_a_disk_that_takes_no_more_is_told_of(machine):
    machine.mood("large")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, before[1]))
        error = refused(machine.unit())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.code == "disk"
    assert machine.left == []


def test_a_full_disk_under_our_own_files_is_told_of(machine, monkeypatch):
    def no_space(*_args, **_more):
        raise OSError(28, "No space left on device", "record.json")

    monkeypatch.setattr("quantmux_cutlass.build.compilation.write_record", no_space)
    error = refused(machine.unit())
    assert error.code == "disk"
    assert "cache = " in error.hint
    assert state_of(machine.unit(), "90a")[0] is State.MISSING
    assert machine.left == []


def test_a_cache_that_cannot_be_written_is_told_of(machine, options, tmp_path):
    file = tmp_path / "a-file"
    file.write_text("")
    options["cache"] = str(file / "inside")
    error = refused(machine.unit())
    assert error.code == "cache"
    assert str(file) in str(error)


def test_two_processes_make_one_library_together(machine, tmp_path):
    gate, told = tmp_path / "gate", [tmp_path / "first", tmp_path / "second"]
    machine.mood(f"gate:{gate}")
    code = (
        "import pathlib\n"
        "file = pathlib.Path({!r}).open('w', buffering=1)\n"
        "path = build_now(unit, '90a', progress=lambda event: print(event.phase, file=file))\n"
        "print(path)\n"
    )
    both = [machine.python(code.format(str(file))) for file in told]

    def phases():
        return [file.read_text().split() if file.exists() else [] for file in told]

    until(lambda: sum("waiting" in words for words in phases()) == 1, seconds=60)
    assert sum("compiling" in words for words in phases()) == 1
    gate.touch()
    outputs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert machine.compiled == 1
    assert sorted(words[-1] for words in phases()) == ["done", "present"]


def test_without_locks_on_the_disk_two_processes_still_give_one_whole_library(machine, monkeypatch):
    def no_locks(*_args, **_more):
        raise NotImplementedError

    monkeypatch.setattr("filelock.FileLock.acquire", no_locks)
    machine.mood("sleep:0.5")
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(build_now(machine.unit(), "90a")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert machine.compiled == 2
    assert found[0] == found[1]
    assert make(machine.unit(), "90a").entry.problem() is None


def test_a_process_that_is_killed_leaves_nothing_that_is_loaded_and_is_swept_up(machine):
    machine.mood("sleep:30")
    process = machine.python("build_now(unit, '90a')\n")
    until(lambda: machine.log.with_suffix(".child").exists() or process.poll() is not None)
    until(lambda: machine.left)
    process.kill()
    process.communicate()
    child = int(machine.log.with_suffix(".child").read_text())
    compiler = int(machine.log.read_text().split()[-1])
    for pid in (compiler, child):
        until(lambda pid=pid: not alive(pid))
    assert state_of(machine.unit(), "90a")[0] is State.MISSING
    assert machine.left != []
    machine.mood("")
    assert build_now(machine.unit(), "90a").is_file()
    assert machine.left == []


def test_ctrl_c_ends_the_compilers_and_leaves_nothing(machine):
    machine.mood("sleep:30")
    code = (
        "try:\n"
        "    build_many([(unit, '90a'), (unit, '100f')])\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    process = machine.python(code)
    until(lambda: machine.compiled == 2 or process.poll() is not None)
    until(lambda: machine.log.with_suffix(".child").exists())
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert out.split() == ["interrupted"], err
    pids = [int(line.split()[-1]) for line in machine.log.read_text().splitlines()]
    for pid in (*pids, int(machine.log.with_suffix(".child").read_text())):
        until(lambda pid=pid: not alive(pid))
    assert machine.left == []
    assert state_of(machine.unit(), "90a")[0] is State.MISSING


def test_many_are_made_together_and_one_that_fails_ends_no_other(machine):
    bad = machine.unit(name="bad", macros=(("QM_SAID_ABI", "7"),))
    good = machine.unit()
    results = build_many([(bad, "90a"), (good, "90a"), (good, "100f")])
    assert [(r.unit.name, r.target) for r in results] == [
        ("bad", "90a"),
        ("tiny", "90a"),
        ("tiny", "100f"),
    ]
    assert results[0].error.code == "library"
    assert results[0].path is None
    assert all(r.error is None and r.made and r.path.is_file() for r in results[1:])
    assert all(r.seconds > 0 and r.memory_mib > 0 for r in results[1:])
    assert not build_many([(good, "90a")])[0].made


def test_a_background_build_is_one_however_often_it_is_asked_for(machine):
    machine.mood("sleep:0.5")
    unit, heard = machine.unit(), []
    builds = {id(build_in_background(unit, "90a")): None for _ in range(5)}
    assert len(builds) == 1
    build = build_in_background(unit, "90a")
    build.add_done_callback(lambda done: heard.append(done.path))
    assert state_of(unit, "90a")[0] is State.BUILDING
    assert build.done.wait(30)
    assert build.error is None
    until(lambda: heard == [build.path])
    assert machine.compiled == 1
    assert state_of(unit, "90a")[0] is State.BUILT
    build.add_done_callback(lambda done: heard.append(done.path))  # too late: at once
    assert heard == [build.path, build.path]


def test_a_background_build_that_failed_is_not_tried_again_in_this_process(machine, caplog):
    machine.mood("killed")  # a failure that is not kept on disk
    build = build_in_background(machine.unit(), "90a")
    assert build.done.wait(30)
    assert build.error.code == "memory"
    assert "killed from outside" in caplog.text
    machine.mood("")
    assert build_in_background(machine.unit(), "90a") is build
    assert state_of(machine.unit(), "90a")[0] is State.FAILED
    again = build_in_background(machine.unit(), "90a", again=True)
    assert again.done.wait(30)
    assert again.error is None


def test_a_callback_that_raises_hurts_nobody(machine, caplog):
    heard = []
    build = build_in_background(machine.unit(), "90a")

    def bad(_build):
        raise RuntimeError("mine")

    build.add_done_callback(bad)
    build.add_done_callback(heard.append)
    assert build.done.wait(30)
    until(lambda: heard == [build])
    assert "a callback of a background build raised" in caplog.text


def test_the_end_of_the_program_ends_background_compilers(machine):
    machine.mood("sleep:30")
    build = build_in_background(machine.unit(), "90a")
    until(lambda: machine.log.with_suffix(".child").exists())
    time.sleep(0.1)
    end_builds()
    assert build.done.is_set()
    assert build.error.code == "interrupted"
    assert machine.left == []
    child = int(machine.log.with_suffix(".child").read_text())
    until(lambda: not alive(child))


def test_a_program_that_ends_takes_its_compilers_along(machine):
    machine.mood("sleep:30")
    code = (
        "import time\n"
        "build_in_background(unit, '90a')\n"
        f"import pathlib; p = pathlib.Path({str(machine.log.with_suffix('.child'))!r})\n"
        "while not p.exists(): time.sleep(0.02)\n"
        "time.sleep(0.1)\n"
    )
    process = machine.python(code)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    child = int(machine.log.with_suffix(".child").read_text())
    until(lambda: not alive(child))
    assert machine.left == []
