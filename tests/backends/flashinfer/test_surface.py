"""What a release says of its functions: read from files, and never guessed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from quantmux_flashinfer.surface import installed as place
from quantmux_flashinfer.surface import record, records, stored
from quantmux_flashinfer.surface.compare import TESTED
from quantmux_flashinfer.surface.declared import BackendChoice, Function, Parameter, Surface
from quantmux_flashinfer.surface.declared import written as word
from quantmux_flashinfer.surface.reader import read_surface

MADE_UP = {
    "__init__.py": """
        raise RuntimeError("nobody imports this package")
        from .gemm import mm as mm, aliased
        try:
            from .parts import *
        except ImportError:
            pass
        from . import absent
        from .absent import gone
        import torch
    """,
    "_build_meta.py": '__version__ = "9.9"\n',
    "artifacts.py": """
        class ArtifactPath:
            GEMM: str = "aa/gemm/"
            BMM = ("bb/" "bmm/")
    """,
    "gemm/__init__.py": """
        from .base import mm, plain as aliased
        from ..parts import quantize
    """,
    "gemm/base.py": """
        from typing import Literal, Optional
        from ..lists import HOPPER, Names
        from ..utils import backend_requirement, supported_compute_capability
        from .. import utils

        _ALL = (100, 103, 120)

        @supported_compute_capability([90, 89, 100])
        def _cublas(*args): return True

        @experimental_backend
        @utils.supported_compute_capability(supported_ccs=_ALL)
        def _cutlass(*args): return True

        @supported_compute_capability(HOPPER)
        def _hopper(*args): return True

        @supported_compute_capability(list(range(9)))
        def _computed(*args): return True

        @supported_compute_capability([90, NEWEST])
        def _partly(*args): return True

        def _unlisted(*args): return True

        @backend_requirement({
            "cublas": _cublas, "cutlass": _cutlass, "hopper": _hopper,
            "computed": _computed, "partly": _partly, "unlisted": _unlisted,
            "made": make_check(),
        }, common_check=_cublas, heuristic_func=None)
        @flashinfer_api(trace=trace)
        def mm(a, b, /, c=None, *rest, backend: Names = "cublas", out, **more): ...

        @backend_requirement({}, common_check=_hopper)
        def single(a, backend: Literal["cuda"] = "cuda"): ...

        @backend_requirement({})
        def unsaid(a): ...

        def plain(a, *, out=None, backend: str = "x"): ...

        same = plain
    """,
    "lists.py": 'HOPPER = [90]\nNames = Literal["cublas", "cutlass"]\n',
    "parts.py": "def quantize(x): ...\n\nclass Layout: ...\n",
    "broken.py": "def half(:\n",
}


@pytest.fixture
def release(tmp_path):
    folder = tmp_path / "flashinfer"
    for name, text in MADE_UP.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = text.split("\n")
        file.write_text("\n".join(line.removeprefix("        ") for line in lines))
    return folder


def read(folder, *names):
    return read_surface(folder, names)[0]


def one(folder, name):
    return read(folder, name).functions[name]


def test_names_are_followed_to_where_they_are_defined(release):
    files = {
        "flashinfer:mm": "gemm/base.py",
        "flashinfer.gemm:mm": "gemm/base.py",
        "flashinfer:aliased": "gemm/base.py",
        "flashinfer.gemm.base:same": "gemm/base.py",
        "flashinfer.gemm:quantize": "parts.py",
        "flashinfer:quantize": "parts.py",
    }
    found = read(release, *files)
    assert {name: function.file for name, function in found.functions.items()} == files
    assert (found.version, found.artifacts["GEMM"], found.artifacts["BMM"]) == (
        "9.9",
        "aa/gemm/",
        "bb/bmm/",
    )


@pytest.mark.parametrize(
    "name",
    [
        "flashinfer:gone",
        "flashinfer:nothing",
        "flashinfer:torch",
        "flashinfer.absent:x",
        "flashinfer.broken:half",
        "flashinfer.parts:Layout",
        "os:getcwd",
    ],
)
def test_what_is_no_function_of_the_release_is_not_there(release, name):
    assert one(release, name) is None


def test_parameters_are_read_in_order_with_their_kinds_and_defaults(release):
    found = one(release, "flashinfer:mm")
    assert [word(p) for p in found.parameters] == [
        "a",
        "b",
        "c=",
        "*rest",
        "~backend=",
        "~out",
        "**more",
    ]
    assert found.required == ("a", "b", "out")


def test_backends_and_architectures_are_those_of_the_checks(release):
    found = one(release, "flashinfer:mm")
    assert found.is_gated
    assert found.choices == ("cublas", "cutlass")
    assert found.backends == {
        "cublas": BackendChoice((89, 90, 100)),
        "cutlass": BackendChoice((100, 103, 120), is_experimental=True),
        "hopper": BackendChoice((90,)),
        "computed": BackendChoice(None),
        "partly": BackendChoice(None),
        "unlisted": BackendChoice(None),
        "made": BackendChoice(None),
    }
    assert found.archs is None


def test_a_function_without_a_choice_of_backends_has_its_own_list(release):
    found = one(release, "flashinfer.gemm.base:single")
    assert (found.is_gated, found.backends, found.archs) == (True, {}, (90,))
    assert one(release, "flashinfer.gemm.base:unsaid").archs is None
    plain = one(release, "flashinfer:aliased")
    assert (plain.is_gated, plain.choices) == (False, None)


def test_a_gated_function_takes_skip_check_and_another_does_not(release):
    assert one(release, "flashinfer.gemm.base:single").takes("skip_check")
    assert not one(release, "flashinfer:aliased").takes("skip_check")


def test_reading_runs_nothing_of_the_release(release):
    # its __init__ raises, so an import would be seen; so would a module of that name
    assert read(release, "flashinfer:mm").functions["flashinfer:mm"] is not None


@pytest.mark.parametrize("text", ["", "a b", "~", "***a", "=", "~*a"])
def test_a_parameter_that_is_no_word_is_refused(text):
    function = Function("x.py", (Parameter("a", "positional", is_required=True),))
    data = {**function.to_dict(), "parameters": [text]}
    with pytest.raises(ValueError, match="is no parameter"):
        Function.from_dict(data)


def test_what_was_read_survives_json(release):
    names = [f"flashinfer.gemm.base:{n}" for n in ("mm", "single", "unsaid", "plain", "none")]
    surface = read(release, *names)
    assert Surface.from_dict(json.loads(json.dumps(surface.to_dict()))) == surface


@pytest.fixture
def here(release, monkeypatch):
    """Say that the made-up release is the installed one."""
    monkeypatch.syspath_prepend(str(release.parent))
    for name in [n for n in sys.modules if n.partition(".")[0] == "flashinfer"]:
        monkeypatch.delitem(sys.modules, name)
    place.forget()
    yield release
    place.forget()


def count_reads(monkeypatch):
    reads = []

    def reading(folder, functions):
        reads.append(set(functions))
        return read_surface(folder, functions)

    monkeypatch.setattr(place, "read_surface", reading)
    return reads


def test_the_installed_release_is_read_once_and_never_imported(here, monkeypatch):
    reads = count_reads(monkeypatch)
    assert place.installed_folder() == here
    first = place.installed_surface({"flashinfer:mm"})
    assert place.installed_surface({"flashinfer:mm"}) is first
    more = place.installed_surface({"flashinfer:aliased"})
    assert set(more.functions) == {"flashinfer:mm", "flashinfer:aliased"}
    assert len(reads) == 2
    assert "flashinfer" not in sys.modules


@pytest.mark.usefixtures("here")
def test_the_next_process_does_not_parse_what_has_not_changed(monkeypatch):
    reads = count_reads(monkeypatch)
    first = place.installed_surface({"flashinfer:mm"})
    place.forget()
    assert place.installed_surface({"flashinfer:mm"}) == first
    assert len(reads) == 1
    place.forget()
    place.installed_surface({"flashinfer:mm", "flashinfer:quantize"})
    assert len(reads) == 2


def test_a_changed_file_is_read_again(here, monkeypatch):
    reads = count_reads(monkeypatch)
    place.installed_surface({"flashinfer:mm"})
    base = here / "gemm" / "base.py"
    base.write_text(base.read_text().replace("[90, 89, 100]", "[90]"))
    place.forget()
    found = place.installed_surface({"flashinfer:mm"}).functions["flashinfer:mm"]
    assert found.backends["cublas"].archs == (90,)
    assert len(reads) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda _: "[]",
        lambda _: "null",
        lambda text: text.replace('"parameters": ["a"', '"parameters": [7'),
        lambda text: text.replace(stored.reader_digest(), "0" * 16),
        lambda text: text.replace('"archs": [90]', '"archs": ["ninety"]'),
    ],
    ids=["cut short", "a list", "null", "a number", "another reader", "a word"],
)
def test_what_was_kept_and_cannot_be_trusted_is_read_again(here, monkeypatch, damage):
    reads = count_reads(monkeypatch)
    first = place.installed_surface({"flashinfer:mm"})
    file = stored._file(here)
    whole = file.read_text()
    file.write_text(damage(whole))
    assert file.read_text() != whole
    place.forget()
    assert place.installed_surface({"flashinfer:mm"}) == first
    assert len(reads) == 2


@pytest.mark.usefixtures("here")
def test_a_folder_that_cannot_be_written_costs_nothing_but_time(monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("QUANTMUX_CACHE_DIR", str(blocked))
    reads = count_reads(monkeypatch)
    for _ in range(2):
        assert place.installed_surface({"flashinfer:mm"}).version == "9.9"
        place.forget()
    assert len(reads) == 2


def test_a_bare_folder_of_that_name_is_no_release(monkeypatch, tmp_path):
    (tmp_path / "flashinfer").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "meta_path", sys.meta_path[-1:])
    for name in [n for n in sys.modules if n.partition(".")[0] == "flashinfer"]:
        monkeypatch.delitem(sys.modules, name)
    place.forget()
    assert place.installed_folder() is None
    assert place.installed_surface({"flashinfer:mm"}) is None
    place.forget()


def test_three_releases_are_recorded():
    assert set(records.versions()) == {"0.6.8", "0.6.18.post1", TESTED}


@pytest.mark.parametrize("version", records.versions())
def test_what_was_read_is_what_the_imported_release_answered(version):
    found = records.recorded(version)
    there = {name: f for name, f in found.surface.functions.items() if f is not None}
    assert there.keys() == found.answers.keys()
    for name, function in there.items():
        answers = found.answers[name]
        assert tuple(map(word, function.parameters)) == answers.parameters, name
        assert {n: b.archs for n, b in function.backends.items()} == answers.backends, name
        assert function.archs == answers.archs, name
        marked = tuple(sorted(n for n, b in function.backends.items() if b.is_experimental))
        assert marked == answers.experimental, name


def test_the_installed_release_is_as_recorded_and_answers_as_recorded(installed):
    folder = Path(installed.__file__).parent
    version = installed.__version__
    if version not in records.versions():
        pytest.fail(f"flashinfer {version} is not recorded: run quantmux_flashinfer.surface.record")
    known = records.recorded(version)
    assert read(folder, *known.surface.functions) == known.surface
    for name, function in known.surface.functions.items():
        assert record.answers_of(name, record.known(function)) == known.answers.get(name), name


def test_reading_the_installed_release_imports_neither_it_nor_torch():
    code = (
        "import sys\n"
        "from quantmux_flashinfer.surface.installed import installed_surface\n"
        "installed_surface({'flashinfer:mm_fp4'})\n"
        "sys.exit(' '.join({'torch', 'flashinfer', 'tvm_ffi'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
