"""Loading libraries: checked before they are loaded, proved before they are used."""

from __future__ import annotations

import hashlib
import json
import shutil
from ctypes import c_int, c_void_p

import pytest
import torch

from quantmux.capability.arch import Arch
from quantmux.errors import BuildError, ConfigError, LaunchError, NotBuiltError
from quantmux_cutlass.build import library as loading
from quantmux_cutlass.build import maker, toolchain
from quantmux_cutlass.build.known import know
from quantmux_cutlass.build.library import library
from quantmux_cutlass.build.maker import build_now
from quantmux_cutlass.build.making import make
from quantmux_cutlass.build.prebuilt import export
from quantmux_cutlass.build.state import State, state_of

tested = []
verdict = None


def self_test(found, device_index):
    """What units of these tests name as their self-test."""
    tested.append((found.unit.name, device_index))
    if isinstance(verdict, Exception):
        raise verdict
    return verdict


@pytest.fixture(autouse=True)
def _verdict(monkeypatch):
    tested.clear()
    says(monkeypatch, None)


def says(monkeypatch, what):
    monkeypatch.setitem(globals(), "verdict", what)


@pytest.fixture
def proved(machine, monkeypatch):
    """The small unit, with a self-test."""
    monkeypatch.setattr(
        loading.importlib, "import_module", lambda _name: type("M", (), {"check": self_test})
    )
    return machine.unit(self_test="somewhere.tests:check")


def refused(unit, target="90a", index=0):
    with pytest.raises(BuildError) as caught:
        library(unit, target, index)
    return caught.value


def no_compiler(monkeypatch):
    monkeypatch.setattr(toolchain, "find_nvcc", lambda: None)
    toolchain.forget()
    loading.forget()


def test_a_library_is_loaded_once_with_typed_functions(machine):
    path = build_now(machine.unit(), "90a")
    found = library(machine.unit(), "90a", 0)
    assert found is library(machine.unit(), "90a", 0)
    assert (found.path, found.plan_bytes) == (path, 64)
    assert found.about["name"] == "tiny"
    assert found.about["targets"] == "90a"
    assert found.run.argtypes[-1] is c_void_p
    assert found.run.restype is c_int
    assert found.run(None, None, None, None, 0, None) == 0
    assert found.run(None, None, None, None, -1, None) == 4


def test_a_unit_with_functions_of_its_own_has_them_in_the_handle(machine):
    unit = machine.unit(interface="own")
    build_now(unit, "90a")
    found = library(unit, "90a", 0)
    assert (found.plan, found.run, found.run_at, found.plan_bytes) == (None, None, None, 0)
    assert found.handle.qm_plan_bytes() == 64


@pytest.mark.parametrize(("target", "arch"), [("90a", "10.0"), ("90a", "8.9"), ("100f", "9.0")])
def test_code_for_another_architecture_is_not_even_looked_for(machine, target, arch):
    machine.arch = Arch.parse(arch)
    error = refused(machine.unit(), target)
    assert error.code == "wrong_target"
    assert str(machine.arch) in str(error)
    assert machine.compiled == 0


def test_one_that_is_missing_is_made_in_the_background_and_then_there(machine):
    machine.mood("sleep:0.3")
    unit = machine.unit()
    error = refused(unit)
    assert isinstance(error, NotBuiltError)
    assert error.code == "not_built"
    assert "in the background, about 3 s" in str(error)
    assert refused(unit).ready is error.ready
    assert error.ready.wait(30)
    assert library(unit, "90a", 0).path.is_file()
    assert machine.compiled == 1


def test_who_does_not_ask_has_nothing_compiled(machine):
    with pytest.raises(NotBuiltError) as caught:
        library(machine.unit(), "90a", 0, ask=False)
    assert caught.value.code == "not_built"
    assert machine.compiled == 0


def test_option_wait_compiles_before_it_goes_on(machine, options):
    options["build"] = "wait"
    assert library(machine.unit(), "90a", 0).path.is_file()


def test_option_never_compiles_nothing(machine, options):
    options["build"] = "never"
    error = refused(machine.unit())
    assert error.code == "not_built"
    assert error.hint.startswith("quantmux build cutlass")
    assert machine.compiled == 0
    assert maker.build_now(machine.unit(), "90a").is_file()  # asked for by hand it is made


def test_an_unknown_option_is_told_of(machine, options):
    options["build"] = "perhaps"
    with pytest.raises(ConfigError, match="background · wait · never"):
        library(machine.unit(), "90a", 0)


def test_what_did_not_compile_is_told_with_what_the_compiler_said(machine):
    machine.mood("error")
    error = refused(machine.unit())
    assert isinstance(error, NotBuiltError)
    assert error.ready.wait(30)
    assert refused(machine.unit()).code == "compile"
    loading.forget()
    assert 'identifier "x" is undefined' in str(refused(machine.unit()))


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "empty"])
def test_a_library_damaged_in_the_cache_is_taken_out_and_made_again(
    machine, options, caplog, damage
):
    options["build"] = "wait"
    path = build_now(machine.unit(), "90a")
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 3])
    elif damage == "flipped":
        path.write_bytes(data[:-50] + bytes([data[-50] ^ 1]) + data[-49:])
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"")
    assert library(machine.unit(), "90a", 0).path.read_bytes()[:4] == b"\x7fELF"
    assert machine.compiled == 2
    assert "taken out of the cache" in caplog.text


def rerecord(entry, **changes):
    record = entry.folder / "record.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), **changes}))


def test_a_library_of_another_abi_in_the_cache_is_made_again(machine, options):
    options["build"] = "wait"
    rerecord(make(machine.unit(), "90a").entry, abi=99)
    library(machine.unit(), "90a", 0)
    assert machine.compiled == 2


@pytest.mark.parametrize("other", ["name", "target"])
def test_another_library_under_the_name_of_this_one_is_found_out(machine, options, other):
    options["build"] = "wait"
    unit = machine.unit()
    right = make(unit, "90a").entry
    changed = {"name": "other"} if other == "name" else {}
    target = "100f" if other == "target" else "90a"
    wrong = make(machine.unit(**changed), target).entry
    # a record that tells of the right one beside the file of the wrong one
    shutil.copy(wrong.library, right.library)
    rerecord(right, sha256=wrong.record.sha256, bytes=wrong.record.bytes)
    found = library(unit, "90a", 0)
    assert (found.about["name"], found.about["targets"]) == ("tiny", "90a")
    assert machine.compiled == 3


def test_a_library_in_a_folder_that_was_renamed_is_not_taken_for_another(machine):
    entry = make(machine.unit(), "90a").entry
    (machine.sources / "tiny.cuh").write_text("#define TINY_VALUE 6.0f\n")
    entry.folder.rename(know(machine.unit(), "90a").cache / know(machine.unit(), "90a").name)
    assert state_of(machine.unit(), "90a")[0] is State.MISSING
    assert make(machine.unit(), "90a").now


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99}', '{"schema": 1}'])
def test_a_record_that_cannot_be_read_counts_as_no_library(machine, text):
    entry = make(machine.unit(), "90a").entry
    (entry.folder / "record.json").write_text(text)
    assert state_of(machine.unit(), "90a")[0] is State.MISSING
    assert build_now(machine.unit(), "90a").is_file()
    assert machine.compiled == 2
    assert state_of(machine.unit(), "90a")[0] is State.BUILT


def test_the_self_test_runs_once_per_process_and_device(proved):
    build_now(proved, "90a")
    for index in (0, 0, 1, 0, 1):
        library(proved, "90a", index)
    assert tested == [("tiny", 0), ("tiny", 1)]


@pytest.mark.parametrize(
    ("what", "says_so"),
    [("y[3, 5] is 0, needs 1.25", "y[3, 5]"), (RuntimeError("no launch"), "no launch")],
)
def test_a_library_that_computes_wrong_is_not_given(proved, monkeypatch, what, says_so):
    build_now(proved, "90a")
    says(monkeypatch, what)
    error = refused(proved)
    assert error.code == "self_test"
    assert says_so in str(error)
    assert refused(proved) is error
    assert tested == [("tiny", 0)]
    says(monkeypatch, None)
    assert library(proved, "90a", 1)  # the other device has its own verdict


@pytest.mark.parametrize(
    "fault",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        LaunchError("an earlier kernel", context_poisoned=True),
    ],
)
def test_what_is_not_the_librarys_fault_is_no_verdict_on_it(proved, monkeypatch, fault):
    build_now(proved, "90a")
    says(monkeypatch, fault)
    with pytest.raises(type(fault)) as caught:
        library(proved, "90a", 0)
    assert caught.value is fault
    says(monkeypatch, None)
    assert library(proved, "90a", 0)
    assert len(tested) == 2


def test_a_host_without_a_compiler_uses_what_the_cache_holds_of_the_same_sources(
    machine, monkeypatch
):
    path = build_now(machine.unit(), "90a")
    no_compiler(monkeypatch)
    assert state_of(machine.unit(), "90a")[0] is State.BUILT
    assert library(machine.unit(), "90a", 0).path == path
    (machine.sources / "tiny.cuh").write_text("#define TINY_VALUE 4.0f\n")
    loading.forget()
    assert state_of(machine.unit(), "90a")[0] is State.IMPOSSIBLE
    assert refused(machine.unit()).code == "no_compiler"


@pytest.fixture
def prebuilt(machine, monkeypatch, options, tmp_path):
    """A folder of prebuilt libraries on a host without a compiler and with an empty cache."""
    folder = tmp_path / "prebuilt"
    build_now(machine.unit(), "90a")
    placed = export(machine.unit(), "90a", folder)
    options.update(prebuilt=str(folder), cache=str(tmp_path / "empty"))
    no_compiler(monkeypatch)
    return placed


def test_prebuilt_libraries_serve_hosts_without_a_compiler(machine, prebuilt):
    assert state_of(machine.unit(), "90a")[0] is State.PREBUILT
    assert library(machine.unit(), "90a", 0).path == prebuilt.library
    assert build_now(machine.unit(), "90a") == prebuilt.library
    assert machine.compiled == 1
    assert state_of(machine.unit(), "100f")[0] is State.IMPOSSIBLE


def test_prebuilt_libraries_serve_whatever_compiler_is_here(machine, options, tmp_path):
    build_now(machine.unit(), "90a")
    placed = export(machine.unit(), "90a", tmp_path / "prebuilt")
    options.update(prebuilt=str(tmp_path / "prebuilt"), cache=str(tmp_path / "empty"))
    machine.version("13.2.0")
    loading.forget()
    assert library(machine.unit(), "90a", 0).path == placed.library
    assert machine.compiled == 1
    options["prebuilt"] = ""
    assert state_of(machine.unit(), "90a")[0] is State.MISSING


def test_prebuilt_libraries_of_other_sources_do_not_count(machine, prebuilt):
    assert prebuilt.library.is_file()
    (machine.sources / "tiny.cuh").write_text("#define TINY_VALUE 5.0f\n")
    assert state_of(machine.unit(), "90a")[0] is State.IMPOSSIBLE


@pytest.mark.parametrize(
    ("damage", "code"),
    [("cut", "truncated"), ("abi", "abi"), ("target", "wrong_target"), ("digest", "digest")],
)
def test_a_broken_prebuilt_library_is_told_of_and_left_where_it_is(machine, prebuilt, damage, code):
    data = prebuilt.library.read_bytes()
    if damage == "cut":
        prebuilt.library.write_bytes(data[:1000])
    elif damage == "abi":
        rerecord(prebuilt, abi=99)
    else:
        old, new = {
            "target": (b";targets=90a;", b";targets=90f;"),
            "digest": (prebuilt.record.digest.encode(), b"0" * 129),
        }[damage]
        changed = data.replace(old, new)
        prebuilt.library.write_bytes(changed)
        rerecord(prebuilt, sha256=hashlib.sha256(changed).hexdigest())
    error = refused(machine.unit())
    assert error.code == code
    assert str(prebuilt.library) in str(error)
    assert prebuilt.folder.is_dir()


def test_a_library_that_lies_is_let_go_of_again(machine, monkeypatch, options):
    options["build"] = "wait"
    entry = make(machine.unit(), "90a").entry
    monkeypatch.setattr(type(entry), "problem", lambda _entry: None)
    other = make(machine.unit(name="other"), "90a").entry
    shutil.copy(other.library, entry.library)
    found = library(machine.unit(), "90a", 0)  # loaded, found out, taken out, made again
    assert found.about["name"] == "tiny"
    assert machine.compiled == 3
