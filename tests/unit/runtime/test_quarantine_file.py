"""The quarantine on disk: several processes, and everything that can be wrong with a file."""

import errno
import json
import logging
import os
import subprocess
import sys
import textwrap
import time

import filelock
import pytest

from quantmux.registry import row_files
from quantmux.registry.user_folder import user_folder
from quantmux.runtime import kept_file
from quantmux.runtime.quarantine import LOOK_S, Quarantine
from quantmux.runtime.quarantine_expiry import LASTING, TRANSIENT, expires_in
from quantmux.runtime.quarantine_file import QuarantineFile, quarantine_path
from quantmux.runtime.quarantine_ground import Ground

GROUND = Ground("0123456789abcdef", "580.1", (("torch", "2.11.0"),))


@pytest.fixture
def file():
    return user_folder() / "quarantine.json"


@pytest.fixture
def warnings(caplog):
    """Give the messages so far; caplog's own list is another one in each phase of a test."""
    with caplog.at_level(logging.WARNING, "quantmux"):
        yield lambda: [record.getMessage() for record in caplog.records]


def test_an_entry_is_the_same_in_the_next_process(file):
    entry = Quarantine(QuarantineFile()).add(
        "a/x", "h200", "bad", ground=GROUND, expires_in=LASTING
    )
    assert Quarantine(QuarantineFile()).entries() == (entry,)
    data = json.loads(file.read_text())
    assert data["schema"] == 1
    (row,) = data["rows"]
    assert {**row, "since": 0, "expires": 0} == {
        "kernel": "a/x",
        "device": "h200",
        "reason": "bad",
        "digest": "0123456789abcdef",
        "driver": "580.1",
        "versions": {"torch": "2.11.0"},
        "since": 0,
        "expires": 0,
    }
    assert file == quarantine_path()


def test_processes_that_write_at_once_lose_nothing(file):
    code = """
        import sys
        from quantmux.runtime.quarantine import Quarantine
        from quantmux.runtime.quarantine_file import QuarantineFile
        mine = Quarantine(QuarantineFile())
        for i in range(12):
            mine.add(f"p{sys.argv[1]}/k{i}", "h200", "bad", expires_in=1e6)
            if i % 3 == 2:
                mine.lift(f"p{sys.argv[1]}/k{i}")
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    running = [subprocess.Popen([*command, str(i)]) for i in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    left = {e.kernel for e in Quarantine(QuarantineFile()).entries()}
    assert left == {f"p{p}/k{i}" for p in range(3) for i in range(12) if i % 3 != 2}
    assert [p.name for p in file.parent.iterdir() if p.name.endswith(".tmp")] == []


def test_what_another_process_writes_is_seen_within_a_second(file):
    now = [0.0]
    mine = Quarantine(QuarantineFile(), ticks=lambda: now[0])
    before = mine.version
    Quarantine(QuarantineFile()).add("a/x", "h200", "bad", expires_in=100)
    assert mine.version == before
    now[0] += LOOK_S
    assert mine.version != before
    assert mine.find("a/x", "h200")
    file.unlink()
    now[0] += LOOK_S
    assert mine.version
    assert mine.entries() == ()


BROKEN = {
    "truncated": '{"schema": 1, "rows": [{"kern',
    "empty": "",
    "list": "[1, 2]",
    "no rows": '{"schema": 1, "rows": 7}',
    "no schema": '{"rows": []}',
    "deep": "[" * 100000,
    "bytes": "\udcff\udcfe",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_kept_aside_once_and_replaced(file, warnings, name):
    file.parent.mkdir(parents=True, exist_ok=True)
    content = BROKEN[name].encode("utf-8", "surrogateescape")
    file.write_bytes(content)
    mine = Quarantine(QuarantineFile())
    assert mine.entries() == ()
    mine.add("a/x", "h200", "bad", expires_in=100)
    aside = file.with_name("quarantine.json.bad")
    assert aside.read_bytes() == content
    assert [e.kernel for e in Quarantine(QuarantineFile()).entries()] == ["a/x"]
    file.write_text("broken again")
    mine.add("a/y", "h200", "bad", expires_in=100)
    assert aside.read_bytes() == content
    messages = warnings()
    assert len(set(messages)) == len(messages) >= 1
    assert all("starts anew" in message for message in messages)


def test_a_file_of_a_later_version_is_left_as_it_is(file, warnings):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('{"schema": 2, "rows": [], "more": 1}')
    store = QuarantineFile()
    mine = Quarantine(store)
    mine.add("a/x", "h200", "bad", expires_in=100)
    mine.add("a/y", "h200", "bad", expires_in=100)
    assert file.read_text() == '{"schema": 2, "rows": [], "more": 1}'
    assert {e.kernel for e in mine.entries()} == {"a/x", "a/y"}
    assert "schema 2" in store.problem
    (message,) = warnings()
    assert "memory only" in message


@pytest.mark.parametrize(
    "row",
    [
        7,
        {},
        {"kernel": 1, "device": "h200", "reason": "x", "since": 0, "expires": None},
        {"kernel": "a/y", "device": "h200", "reason": "x", "since": "never", "expires": None},
        {"kernel": "a/y", "device": "h200", "reason": "x", "since": 1e300, "expires": None},
        {"kernel": "a/y", "device": "h200", "reason": "x", "since": 0, "expires": float("nan")},
        {"kernel": "a/y", "device": "h", "reason": "x", "since": 0, "expires": 9, "versions": 3},
    ],
)
def test_a_row_that_is_none_costs_itself_alone(file, row):
    Quarantine(QuarantineFile()).add("a/x", "h200", "bad", expires_in=100)
    data = json.loads(file.read_text())
    file.write_text(json.dumps({"schema": 1, "rows": [row, *data["rows"]]}))
    (entry,) = Quarantine(QuarantineFile()).entries()
    assert entry.kernel == "a/x"


def test_a_folder_that_cannot_be_made_costs_one_warning(monkeypatch, tmp_path, warnings):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QUANTMUX_CACHE_DIR", str(tmp_path / "file" / "folder"))
    mine = Quarantine(QuarantineFile())
    for name in "xyz":
        mine.add(f"a/{name}", "h200", "bad", expires_in=100)
    assert len(mine.rejections("h200")) == 3
    assert len(mine.lift("a/x")) == 1
    (message,) = warnings()
    assert "the quarantine is kept in memory only" in message
    assert "Not a directory" in message


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_read_only_folder_costs_one_warning(file, number, monkeypatch, warnings):
    file.parent.mkdir(parents=True, exist_ok=True)
    really = os.open

    def read_only(path, flags, *args, **kwargs):
        if flags & os.O_CREAT and str(file.parent) in str(path):
            raise OSError(number, os.strerror(number), path)
        return really(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", read_only)  # root may write everywhere, mode bits or not
    mine = Quarantine(QuarantineFile())
    mine.add("a/x", "h200", "bad", expires_in=100)
    mine.add("a/y", "h200", "bad", expires_in=100)
    assert len(mine.rejections("h200")) == 2
    assert not file.exists()
    (message,) = warnings()
    assert f"cannot be written: {os.strerror(number)}" in message


def test_a_full_disk_costs_one_warning_and_leaves_the_old_file(file, monkeypatch, warnings):
    store = QuarantineFile()
    mine = Quarantine(store)
    mine.add("a/x", "h200", "bad", expires_in=100)
    before = file.read_text()

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(row_files.os, "fsync", full)
        mine.add("a/y", "h200", "bad", expires_in=100)
        mine.add("a/z", "h200", "bad", expires_in=100)
    assert file.read_text() == before
    assert len(mine.rejections("h200")) == 3
    assert "No space left" in store.problem
    (message,) = warnings()
    assert "No space left" in message
    assert [p for p in file.parent.iterdir() if p.name.endswith(".tmp")] == []
    # when there is room again, what was held in memory is kept too
    mine.add("a/w", "h200", "bad", expires_in=100)
    assert {e.kernel[-1] for e in Quarantine(QuarantineFile()).entries()} == set("xyzw")
    assert store.problem == ""


def test_a_lock_that_is_never_given_back_is_waited_for_once(file, monkeypatch, warnings):
    monkeypatch.setattr(kept_file, "LOCK_S", 0.3)
    file.parent.mkdir(parents=True, exist_ok=True)
    code = """
        import sys, time
        from filelock import FileLock
        with FileLock(sys.argv[1]):
            print("held", flush=True)
            time.sleep(60)
    """
    lock = file.with_name(f".{file.name}.lock")
    command = [sys.executable, "-c", textwrap.dedent(code), str(lock)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        mine = Quarantine(QuarantineFile())
        start = time.monotonic()
        mine.add("a/x", "h200", "bad", expires_in=100)
        first = time.monotonic() - start
        start = time.monotonic()
        mine.add("a/y", "h200", "bad", expires_in=100)
        second = time.monotonic() - start
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert 0.3 <= first < 3.0
    assert second < 0.3
    assert len(mine.rejections("h200")) == 2
    (message,) = warnings()
    assert "locked by another process" in message


def test_a_disk_without_locks_costs_one_warning(monkeypatch, warnings):
    def none(_self, *_args, **_kwargs):
        raise NotImplementedError("no locks here")

    monkeypatch.setattr(filelock.FileLock, "acquire", none)
    mine = Quarantine(QuarantineFile())
    mine.add("a/x", "h200", "bad", expires_in=100)
    assert mine.find("a/x", "h200")
    assert len(warnings()) == 1


def test_what_has_expired_leaves_the_file(file):
    store = QuarantineFile()
    Quarantine(store, clock=lambda: time.time() - 200).add("a/x", "h200", "bad", expires_in=100)
    assert json.loads(file.read_text())["rows"] == []
    Quarantine(store).add("a/y", "h200", "bad", expires_in=100)
    assert [row["kernel"] for row in json.loads(file.read_text())["rows"]] == ["a/y"]


def chained():
    error = RuntimeError("compiling failed")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    return error


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (RuntimeError("nvcc: error: unsupported gpu"), LASTING),
        (ValueError("K must be a multiple of 128"), LASTING),
        (None, LASTING),
        (chained(), TRANSIENT),
        (subprocess.CalledProcessError(-9, "nvcc"), TRANSIENT),
        (RuntimeError("c++: fatal error: Killed signal terminated program cc1plus"), TRANSIENT),
        (ConnectionResetError("peer"), TRANSIENT),
        (
            RuntimeError("<urlopen error [Errno -3] Temporary failure in name>"),
            TRANSIENT,
        ),
        (TimeoutError("compile"), TRANSIENT),
    ],
)
def test_what_looks_as_if_it_passes_is_tried_again_after_a_day(error, seconds):
    assert expires_in(error) == seconds


NEXT = """
    import json, sys, torch
    from quantmux.capability.capability import Capability, OperandOffer
    from quantmux.capability.detect import HERE_CPU
    from quantmux.config import QuantizeConfig
    from quantmux.ops.quantize.reference import quantize
    from quantmux.registry.hookspecs import hookimpl
    from quantmux.registry.kernel_spec import BackendInfo, KernelSpec
    from quantmux.registry.manager import Registry
    from quantmux.runtime.binding import bind_producer
    from quantmux.runtime.context import Context
    import quantmux.runtime.self_check as here

    config = QuantizeConfig(operand="fp8_token", n=64)
    offer = OperandOffer.of(config.operand, ("row_major",))
    tried = []

    class Kernel:
        def __init__(self, name):
            self.name = name
        def bind(self, config, device):
            tried.append(self.name)
            def run(x, *, out=None, **scales):
                q = quantize(x, config, out=out, **scales)
                if self.name == "bad":
                    q.scales.mul_(2)
                return q
            return run
        def warmup(self, config, ms):
            pass

    class Plugin:
        def __init__(self, name, version):
            self.name, self.version = name, version
        @hookimpl
        def quantmux_backend(self):
            return BackendInfo(self.name, "1")
        @hookimpl
        def quantmux_kernels(self):
            capability = Capability(arch=("any",), produces=(offer,))
            load = f"quantmux.runtime.self_check:{self.name}"
            return (KernelSpec(f"{self.name}/q", "quantize", capability, load,
                               version=self.version),)

    here.bad, here.good = Kernel("bad"), Kernel("good")
    registry = Registry.of({"bad": Plugin("bad", sys.argv[1]), "good": Plugin("good", "1")})
    context = Context(registry)
    selection = context.select(config, HERE_CPU, call_overrides={"order": ["bad", "good"]})
    bound = bind_producer(selection, context=context)
    print(json.dumps({"tried": sorted(set(tried)), "taken": bound.selection.kernels[-1],
                      "events": [e.reason for e in bound.events]}))
"""


def test_the_next_process_does_not_try_it_until_it_is_cleared_or_changed():
    def process(version):
        command = [sys.executable, "-c", textwrap.dedent(NEXT), version]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    first = process("1")
    assert first["tried"] == ["bad", "good"]
    assert first["taken"] == "good/q"
    assert "bad/q failed its self-check" in first["events"][0]
    assert process("1") == {"tried": ["good"], "taken": "good/q", "events": []}
    assert process("2")["tried"] == ["bad", "good"]
    Quarantine(QuarantineFile()).clear()
    assert process("1")["tried"] == ["bad", "good"]
