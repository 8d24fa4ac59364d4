from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from filelock import FileLock

from quantmux.errors import BuildError
from quantmux_flashinfer.jit import making, room, states
from quantmux_flashinfer.jit.modules import MODULES
from quantmux_flashinfer.jit.process import Stop
from quantmux_flashinfer.jit.room import Room
from quantmux_flashinfer.jit.settings import own_folder


def test_a_module_is_compiled_by_a_process_of_its_own_where_flashinfer_looks(machine):
    said = []
    made = making.make("gemm", "90a", tell=said.append)
    assert made.now
    assert made.path == machine.library("gemm")
    assert made.seconds > 0
    assert states.state_of("gemm", "90a") == (states.State.BUILT, str(made.path))
    assert said[:2] == ["queued", "compiling"]
    assert said[-1] == "done"
    assert "flashinfer" not in sys.modules


def test_what_is_there_is_not_compiled_again_unless_forced(machine):
    making.make("gemm", "90a")
    said = []
    assert not making.make("gemm", "90a", tell=said.append).now
    assert said == ["present"]
    assert making.make("gemm", "90a", force=True).now
    assert machine.compiled == ["gemm", "gemm"]


def test_a_module_for_several_gpus_goes_into_their_common_folder(machine):
    made = making.make("gemm", "89+90a")
    assert made.path == machine.library("gemm", "89_90a")


def test_the_compilers_own_words_are_in_the_error_and_its_commands_are_not(machine):
    machine.behaves(fail="x.cu(3): error: identifier is undefined\nFAILED: x.o")
    with pytest.raises(BuildError) as caught:
        making.make("norm", "90a")
    assert caught.value.code == "compile"
    assert caught.value.facts[0] == "x.cu(3): error: identifier is undefined"
    assert "-DX" not in str(caught.value)
    log = own_folder() / "logs" / "norm-90a.log"
    assert "identifier is undefined" in log.read_text(encoding="utf-8")


def test_what_failed_is_not_tried_again_until_it_is_forced(machine):
    machine.behaves(fail="error: no")
    for _ in range(2):
        with pytest.raises(BuildError):
            making.make("gemm", "90a")
    assert machine.compiled == ["gemm"]
    machine.behaves(fail="")
    with pytest.raises(BuildError, match="nothing has changed"):
        making.make("gemm", "90a")
    assert making.make("gemm", "90a", force=True).now
    assert states.state_of("gemm", "90a")[0] is states.State.BUILT


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("nvcc error: 'cicc' died due to signal 9 (Kill signal)", "memory"),
        ("fatal error: error writing: No space left on device", "disk"),
        ("OSError: [Errno 30] Read-only file system: '/a/folder'", "cache"),
        ("ModuleNotFoundError: No module named 'tvm_ffi'", "unavailable"),
    ],
)
def test_what_may_pass_is_told_from_what_does_not_and_is_tried_again(machine, said, code):
    machine.behaves(fail=said)
    for _ in range(2):
        with pytest.raises(BuildError) as caught:
            making.make("gemm", "90a")
        assert caught.value.code == code
    assert machine.compiled == ["gemm", "gemm"]


def test_a_release_without_the_generator_is_told_before_anything_runs(machine):
    machine.install("0.6.8", without=("gen_fp4_quantization_sm107_module",))
    with pytest.raises(BuildError) as caught:
        making.make("fp4_quantization_107", "107a")
    assert caught.value.code == "unavailable"
    assert "found  0.6.8" in caught.value.facts[1]
    assert making.make("fp4_quantization_103", "103a").now


def test_a_generator_that_gives_another_module_is_not_believed(machine):
    machine.install(gives={"fp4_quantization_100": "another_module"})
    with pytest.raises(BuildError, match="gave the module another_module"):
        making.make("fp4_quantization_100", "100a")
    assert machine.compiled == []


def test_without_flashinfer_nothing_is_tried(machine, monkeypatch):
    monkeypatch.setattr("quantmux_flashinfer.jit.place.installed_folder", lambda: None)
    with pytest.raises(BuildError) as caught:
        making.make("gemm", "90a")
    assert caught.value.code == "unavailable"
    assert "pip install 'quantmux[flashinfer]'" in str(caught.value)
    del machine


@pytest.mark.parametrize(
    ("file", "code"), [("bin/nvcc", "no_compiler"), ("include/cublasLt.h", "headers")]
)
def test_a_machine_that_cannot_compile_is_told_before_anything_runs(machine, file, code):
    (machine.home / file).unlink()
    machine.look_again()
    with pytest.raises(BuildError) as caught:
        making.make("gemm", "90a")
    assert caught.value.code == code
    assert machine.compiled == []


def test_time_is_up_and_the_compilers_children_are_gone_too(machine):
    child = machine.folder / "child"
    machine.behaves(seconds=60, child=child)
    with pytest.raises(BuildError) as caught:
        making.make("gemm", "90a", timeout=1.5)
    assert caught.value.code == "timeout"
    assert_gone(child)


def test_a_stop_ends_the_compilers_and_leaves_nothing_that_counts_as_built(machine):
    child = machine.folder / "child"
    machine.behaves(seconds=60, child=child)
    stop = Stop()
    errors = []

    def work():
        try:
            making.make("gemm", "90a", stop=stop)
        except BuildError as error:
            errors.append(error.code)

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(child.exists)
    stop()
    thread.join(10)
    assert errors == ["interrupted"]
    assert_gone(child)
    assert states.state_of("gemm", "90a")[0] is states.State.MISSING


def test_the_compilers_end_with_a_program_that_is_killed(machine):
    child = machine.folder / "child"
    machine.behaves(seconds=60, child=child)
    program = "from quantmux_flashinfer.jit.making import make; make('gemm', '90a')"
    path = f"{machine.site}{os.pathsep}{os.pathsep.join(p for p in sys.path if p)}"
    killed = subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}
    )
    wait_for(child.exists)
    killed.send_signal(signal.SIGKILL)
    killed.wait(10)
    assert_gone(child)


def test_a_module_that_another_process_compiles_is_waited_for(machine):
    lock = machine.library("gemm").parent.parent / "tmp" / "gemm.lock"
    lock.parent.mkdir(parents=True)
    held = FileLock(lock, thread_local=False)
    held.acquire()
    said, made = [], []
    thread = threading.Thread(
        target=lambda: made.append(making.make("gemm", "90a", tell=said.append))
    )
    thread.start()
    wait_for(lambda: said == ["waiting"])
    assert machine.compiled == []
    held.release()
    thread.join(20)
    assert made[0].now
    assert machine.compiled == ["gemm"]


def test_several_modules_are_compiled_side_by_side_the_longest_first(machine, monkeypatch):
    plenty(monkeypatch, gib=64.0, cores=16)
    machine.behaves(meet=3)
    made = making.make_many(["silu_and_mul", "gemm", "rope"], "90a")
    assert all(isinstance(result, making.Made) for result in made.values())
    assert making.by_length(["silu_and_mul", "gemm", "rope"]) == ["rope", "gemm", "silu_and_mul"]
    assert most_at_once(machine) == 3


def test_one_after_another_the_longest_is_the_first(machine, monkeypatch):
    plenty(monkeypatch, gib=64.0, cores=1)
    monkeypatch.setattr(room, "_TOGETHER_S", 1.0)
    making.make_many(["silu_and_mul", "gemm", "rope"], "90a")
    assert machine.compiled == ["rope", "gemm", "silu_and_mul"]


def test_one_that_fails_does_not_end_the_others(machine):
    machine.install(gives={"fp4_quantization_100": "another_module"})
    made = making.make_many(["fp4_quantization_100", "gemm"], "100a")
    assert isinstance(made["fp4_quantization_100"], BuildError)
    assert isinstance(made["gemm"], making.Made)
    assert machine.compiled == ["gemm"]


def test_no_more_workers_run_than_memory_allows(machine, monkeypatch):
    # a unit takes 2 GiB: with 4 GiB left to others, one unit of one module fits
    heavy = {name: replace(module, memory_gib=2.0) for name, module in MODULES.items()}
    monkeypatch.setattr(making, "MODULES", heavy)
    plenty(monkeypatch, gib=room.SPARE_GIB + 3.0, cores=16)
    machine.behaves(seconds=0.3)
    making.make_many(["gemm", "norm", "rope"], "90a")
    assert most_at_once(machine) == 1
    assert {line.split()[2] for line in runs(machine) if line.startswith("begin")} == {"1"}


def test_the_number_of_compilers_is_what_was_asked(machine, monkeypatch):
    plenty(monkeypatch, gib=64.0, cores=16)
    machine.behaves(seconds=0.2)
    making.make("fp8_blockscale_gemm_90", "90a", jobs=3)
    assert runs(machine)[0] == "begin fp8_blockscale_gemm_90 3"


@pytest.mark.parametrize(
    ("units", "gib", "available", "cores", "granted"),
    [
        (8, 4.0, 64.0, 16, 8),  # a core for every unit
        (53, 6.0, 64.0, 16, 10),  # memory: (64 - 4) / 6
        (53, 1.0, 64.0, 16, 16),  # cores
        (8, 8.0, 6.0, 16, 1),  # one always goes
    ],
)
def test_room_is_bounded_by_units_memory_and_cores(
    monkeypatch, tmp_path, units, gib, available, cores, granted
):
    plenty(monkeypatch, gib=available, cores=cores)
    with Room().take(units, gib, tmp_path, stop=Stop()) as count:
        assert count == granted


def test_what_one_module_holds_another_does_not_get(monkeypatch, tmp_path):
    plenty(monkeypatch, gib=4.0 + 20.0, cores=16)
    shared = Room()
    with shared.take(2, 8.0, tmp_path, stop=Stop()) as first:
        assert first == 2
        with shared.take(8, 2.0, tmp_path, stop=Stop()) as second:
            assert second == 2  # 20 - 16 GiB left
            stop = Stop()
            threading.Timer(0.5, stop).start()
            with shared.take(1, 2.0, tmp_path, stop=stop) as third:
                assert stop.asked, "it did not wait for room"
                assert third == 1


def test_the_longest_goes_first_though_it_asked_last(monkeypatch, tmp_path):
    plenty(monkeypatch, gib=64.0, cores=1)
    shared, order = Room(), []

    def ask(length):
        with shared.take(1, 1.0, tmp_path, length=length, stop=Stop()):
            order.append(length)

    threads = [threading.Thread(target=ask, args=(length,)) for length in (5.0, 94.0, 31.0)]
    with shared.take(1, 1.0, tmp_path, stop=Stop()):
        for count, thread in enumerate(threads, 1):
            thread.start()
            wait_for(lambda count=count: len(shared._waiting) == count)
    for thread in threads:
        thread.join(20)
    assert order == [94.0, 31.0, 5.0]


def test_those_asked_for_together_begin_the_longest_with_most(monkeypatch, tmp_path):
    # the modules of an H200 on twelve cores: without it the first to come took what there was
    plenty(monkeypatch, gib=120.0, cores=12)
    monkeypatch.setattr(room, "_TOGETHER_S", 1.0)
    shared, granted = Room(), {}
    done = threading.Event()

    def ask(name, units, length):
        with shared.take(units, 1.0, tmp_path, length=length, stop=Stop()) as count:
            granted[name] = count
            done.wait(20)

    asked = [("rope", 2, 47.0), ("fp4", 7, 39.0), ("norm", 2, 38.0), ("block", 8, 94.0)]
    threads = [threading.Thread(target=ask, args=one) for one in asked]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(granted) == 4)
    done.set()
    for thread in threads:
        thread.join(20)
    assert granted == {"block": 8, "rope": 2, "fp4": 1, "norm": 1}


def test_processes_of_one_host_share_its_cores(monkeypatch, tmp_path):
    plenty(monkeypatch, gib=64.0, cores=4)
    # another room is what another process has: only the lock files are shared
    with Room().take(3, 1.0, tmp_path, stop=Stop()) as first:
        assert first == 3
        with Room().take(3, 1.0, tmp_path, stop=Stop()) as second:
            assert second == 1


def plenty(monkeypatch, *, gib, cores):
    monkeypatch.setattr(room, "available_gib", lambda: gib)
    monkeypatch.setattr(room, "cores_here", lambda: cores)


def runs(machine):
    return machine.runs.read_text(encoding="utf-8").splitlines()


def most_at_once(machine):
    now = most = 0
    for line in runs(machine):
        now += 1 if line.startswith("begin") else -1
        most = max(most, now)
    return most


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def assert_gone(child):
    pid = int(child.read_text(encoding="utf-8"))
    wait_for(lambda: not is_alive(pid), 10.0)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:  # noqa: PTH123
        return file.read().rpartition(")")[2].split()[0] != "Z"
