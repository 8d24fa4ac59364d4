"""Which library it is: what changes a key, and what does not."""

from __future__ import annotations

import os

import pytest

from quantmux.errors import BuildError
from quantmux_cutlass import abi
from quantmux_cutlass.build import command, header_digest
from quantmux_cutlass.build.keys import CSRC, key_of, sources_of
from quantmux_cutlass.build.settings import cache_folder
from quantmux_cutlass.build.toolchain import find_toolchain


def key(unit, target="90a"):
    return key_of(unit, target, find_toolchain())


def test_the_key_is_the_same_for_the_same_input(machine):
    assert key(machine.unit()) == key(machine.unit())
    assert key(machine.unit()).text.count(".") == 1


def test_the_sources_of_a_unit_are_what_it_reaches_ours_only(machine):
    machine.cutlass("4.5.0")
    (machine.sources / "tiny.cuh").write_text('#include "cute/layout.hpp"\n#include "deep.cuh"\n')
    (machine.sources / "deep.cuh").write_text('#include "tiny.cuh"\n#include <cstdio>\n')
    (machine.sources / "beside.cuh").write_text("// nobody includes it\n")
    names = [path.name for path in sources_of(machine.unit())]
    assert names[0] == "tiny.cu"
    assert sorted(names) == ["abi.cuh", "deep.cuh", "tiny.cu", "tiny.cuh"]
    assert CSRC / "abi.cuh" in sources_of(machine.unit())


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"macros": (("TINY", "1"),)},
        {"macros": (("TINY", "2"),)},
        {"targets": ("90a",), "cutlass": ">=4"},
    ],
)
def test_another_unit_is_another_library(machine, change):
    machine.cutlass("4.5.0")
    plain, other = key(machine.unit()), key(machine.unit(**change))
    assert plain.build != other.build
    # what a unit needs of CUTLASS is no part of its machine code, the headers are
    assert (plain.source != other.source) == ("cutlass" not in change)


def test_another_target_is_another_library(machine):
    assert key(machine.unit(), "90a").source != key(machine.unit(), "100f").source


def test_a_changed_text_changes_both_digests_and_a_changed_time_none(machine):
    before = key(machine.unit())
    header = machine.sources / "tiny.cuh"
    os.utime(header, (1, 1))
    assert key(machine.unit()) == before
    header.write_text("#define TINY_VALUE 3.0f\n")
    after = key(machine.unit())
    assert before.source != after.source
    assert before.build != after.build


def test_another_compiler_changes_the_key_and_not_the_source_digest(machine):
    before = key(machine.unit())
    machine.version("13.1.5")
    after = key(machine.unit())
    assert (before.source == after.source, before.build == after.build) == (True, False)


def test_what_nvcc_reads_from_the_environment_is_in_the_key(machine, monkeypatch):
    before = key(machine.unit())
    monkeypatch.setenv("NVCC_APPEND_FLAGS", "-O0")
    assert key(machine.unit()).build != before.build


def test_another_host_compiler_changes_the_key(machine, monkeypatch):
    before = key(machine.unit())
    other = machine.program("g++-99", machine.sources / "version.py")
    (machine.sources / "version.py").write_text("print('g++ (other) 99.1')")
    monkeypatch.setenv("NVCC_CCBIN", str(other))
    assert find_toolchain().host == "g++ (other) 99.1"
    assert key(machine.unit()).build != before.build


def test_the_header_tree_counts_by_its_content_for_units_that_need_it(machine):
    with_headers, without = machine.unit(cutlass=">=4.3"), machine.unit()
    machine.cutlass("4.5.0")
    first = key(with_headers), key(without)
    machine.cutlass("4.5.0", "// another text, the same version\n")
    second = key(with_headers), key(without)
    assert first[0].build != second[0].build
    assert first[1] == second[1]
    machine.cutlass("4.5.0")
    assert key(with_headers) == first[0]


def test_the_header_tree_is_read_once_and_then_remembered_by_sizes_and_times(machine, monkeypatch):
    include = machine.cutlass("4.5.0")
    first = header_digest.header_digest(include)
    assert (cache_folder() / "headers.json").is_file()
    header_digest.forget()
    monkeypatch.setattr(type(include), "read_bytes", lambda _path: pytest.fail("it was read again"))
    assert header_digest.header_digest(include) == first


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}'])
def test_a_broken_memory_of_the_header_tree_is_no_harm(machine, text):
    include = machine.cutlass("4.5.0")
    first = header_digest.header_digest(include)
    (cache_folder() / "headers.json").write_text(text)
    header_digest.forget()
    assert header_digest.header_digest(include) == first


def test_flags_and_the_version_of_the_abi_are_in_both_digests(machine, monkeypatch):
    before = key(machine.unit())
    monkeypatch.setattr(abi, "VERSION", abi.VERSION + 1)
    machine.unit()
    from quantmux_cutlass.build import keys

    keys._sources.clear()
    other_abi = key(machine.unit())
    monkeypatch.undo()
    assert other_abi.source != before.source


def test_other_flags_are_another_library(machine, monkeypatch):
    from quantmux_cutlass.build import keys

    before = key(machine.unit())
    monkeypatch.setattr(command, "_FLAGS", (*command._FLAGS, "-DMORE"))
    keys._sources.clear()
    assert key(machine.unit()).source != before.source
    keys._sources.clear()


def test_a_source_that_is_not_there_is_an_error_of_ours(machine):
    with pytest.raises(BuildError, match=r"cannot be read: gone\.cu"):
        key(machine.unit(source=str(machine.sources / "gone.cu")))
