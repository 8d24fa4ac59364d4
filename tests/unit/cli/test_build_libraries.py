"""quantmux build BACKEND: which libraries are meant, what is printed, and the exit code."""

import _thread
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from quantmux.capability.capability import Capability, OperandOffer
from quantmux.capability.profiles import PROFILES
from quantmux.cli import _session
from quantmux.config import operand
from quantmux.errors import BuildError
from quantmux.registry.default import set_default_registry
from quantmux.registry.hookspecs import hookimpl
from quantmux.registry.kernel_spec import BackendInfo, KernelSpec
from quantmux.registry.library_unit import LibraryMade, LibraryUnit
from quantmux.registry.manager import Registry

MISSING = BuildError(
    "it cannot be compiled here",
    facts={"needs": "nvcc >= 12.8", "found": "none"},
    hint="pip install nvidia-cuda-nvcc",
    code="no_compiler",
)


@dataclass
class Maker:
    """Makes a library, or what a test wants instead."""

    name: str
    failure: BaseException | None = None
    hangs: bool = False
    orders: list = field(default_factory=list)

    def __call__(self, order):
        self.orders.append(order)
        if order.tell is not None:
            order.tell("compiling")
        if self.hangs:
            threading.Timer(0.3, _thread.interrupt_main).start()
            order.stop.wait(10)
            raise BuildError("stopped", code="interrupted")
        if self.failure is not None:
            raise self.failure
        folder = order.into or Path("somewhere")
        return LibraryMade(folder / self.name / "library.so", 61.25, 3640, 750 * 1024)


class Acme:
    """A backend with three libraries for two kernels."""

    __name__ = "acme"

    def __init__(self, **makers):
        self.makers = {n: makers.get(n) or Maker(n) for n in ("small", "large", "blackwell")}

    @hookimpl
    def quantmux_backend(self):
        return BackendInfo(name="acme", version="1.0", api=">=1.1,<2")

    @hookimpl
    def quantmux_kernels(self):
        offer = OperandOffer.of(operand("fp8_token"), ("row_major",))
        capability = Capability(arch="any", produces=(offer,))
        return [
            KernelSpec(f"acme/{n}", "quantize", capability, "no:kernel") for n in ("one", "two")
        ]

    @hookimpl
    def quantmux_libraries(self):
        both, two = ("acme/one", "acme/two"), ("acme/two",)
        make = self.makers
        return [
            LibraryUnit("small", "90a", both, make["small"], seconds=9),
            LibraryUnit("large", "90a+120f", two, make["large"], state="built", seconds=90),
            LibraryUnit(
                "blackwell", "100f", two, make["blackwell"], "impossible", "no nvcc", "get one"
            ),
        ]


@pytest.fixture
def acme(monkeypatch):
    """Put the backend in the place of all others; nothing of this machine's GPUs is seen."""

    def install(gpus=(), **makers):
        plugin = Acme(**makers)
        set_default_registry(Registry.of({"acme": plugin}))
        monkeypatch.setattr("quantmux.capability.detect.detect_devices", lambda: tuple(gpus))
        return plugin

    yield install
    _session._given.clear()
    set_default_registry(None)


def names(answer):
    return [row["name"] for row in answer.json["libraries"]]


def test_makes_every_library_and_says_seconds_memory_and_size(cli, acme):
    acme()
    answer = cli("build", "acme")
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    assert lines[0].split() == ["library", "for", "state", "seconds", "peak", "MiB", "KiB"]
    assert lines[1].split() == ["small", "90a", "built", "61.2", "3640", "750"]
    assert lines[-2] == "in somewhere"
    assert lines[-1].startswith("3 compiled, 0 there before, 0 not made, in ")
    assert "build: compiling small for 90a, about 9 s" in answer.err
    assert "build: 3 of 3: " in answer.err


def test_json_says_all_of_it(cli, acme, tmp_path):
    plugin = acme()
    answer = cli("build", "acme", "--json", "--force", "--jobs", 2, "--into", tmp_path)
    assert answer.code == 0
    first = answer.json["libraries"][0]
    assert first["kernels"] == ["acme/one", "acme/two"]
    assert (first["seconds"], first["memory_mib"], first["bytes"]) == (61.25, 3640, 768000)
    assert first["path"] == str(tmp_path / "small" / "library.so")
    assert answer.json["ok"] is True
    (order,) = plugin.makers["small"].orders
    assert (order.force, order.jobs, order.into) == (True, 2, tmp_path)


def test_without_a_gpu_all_are_made_and_with_one_those_that_run_there(cli, acme):
    acme()
    assert names(cli("build", "acme", "--json")) == ["small", "large", "blackwell"]
    acme(gpus=[PROFILES["h200"]])
    assert names(cli("build", "acme", "--json")) == ["small", "large"]
    acme(gpus=[PROFILES["b300"]])
    assert names(cli("build", "acme", "--json")) == ["blackwell"]
    acme(gpus=[PROFILES["l40s"]])
    answer = cli("build", "acme")
    assert answer.code == 2
    assert "no library is for a GPU of this machine: l40s (sm89)" in answer.err
    assert "targets: 100f 120f 90a" in answer.err


def test_arch_and_kernel_narrow_it(cli, acme):
    acme(gpus=[PROFILES["h200"]])
    assert names(cli("build", "acme", "--json", "--arch", "100f")) == ["blackwell"]
    assert names(cli("build", "acme", "--json", "--arch", "100f,120f")) == ["large", "blackwell"]
    both = cli("build", "acme", "--json", "--arch", "100f", "--arch", "120f")
    assert names(both) == ["large", "blackwell"]
    assert names(cli("build", "acme", "--json", "--kernel", "acme/one")) == ["small"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("acmee",), 'did you mean "acme"?'),
        (("acme", "--arch", "90"), 'no library is compiled for "90"'),
        (("acme", "--kernel", "acme/thre"), 'there is no kernel "acme/thre"'),
        (("acme", "--jobs", "0"), "at least 1"),
        (("acme", "--record"), "--record does not go with this"),
        (("acme", "--device", "h200"), "--device does not go with this"),
        (("acme", "--backend", "acme"), "--backend does not go with this"),
        (("--arch", "90a"), "--arch does not go with this"),
        (("--force",), "name one, e.g. quantmux build cutlass"),
        (("--into", "there"), "--into does not go with this"),
        (("--list",), "--list does not go with this"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_way_out(cli, acme, arguments, words):
    acme()
    answer = cli("build", *arguments)
    assert answer.code == 2
    assert words in answer.err


def test_a_backend_without_libraries_is_refused(cli):
    answer = cli("build", "torch")
    assert answer.code == 2
    assert "no library to compile" in answer.err


def test_one_that_does_not_compile_is_told_with_its_log_and_costs_the_exit_code(cli, acme):
    log = BuildError("nvcc cannot compile large", facts=["error: line 3"], code="compile")
    acme(large=Maker("large", log))
    answer = cli("build", "acme")
    assert answer.code == 1
    assert "large 90a+120f\n  nvcc cannot compile large\n  error: line 3\n" in answer.out
    assert "2 compiled, 0 there before, 1 not made" in answer.out


def test_what_this_machine_lacks_is_said_once_for_all(cli, acme):
    acme(small=Maker("small", MISSING), blackwell=Maker("blackwell", MISSING))
    answer = cli("build", "acme")
    assert answer.code == 1
    assert answer.out.count("needs  nvcc >= 12.8") == 1
    assert "small 90a, blackwell 100f\n" in answer.out
    assert "next: pip install nvidia-cuda-nvcc" in answer.out


def test_ctrl_c_ends_it_with_130(cli, acme):
    acme(large=Maker("large", hangs=True))
    answer = cli("build", "acme", "--json")
    assert answer.code == 130
    assert answer.json["interrupted"] is True
    assert answer.json["ok"] is False


def test_list_shows_the_states_and_makes_nothing(cli, acme):
    plugin = acme()
    answer = cli("build", "acme", "--list")
    assert answer.code == 0
    states = [line.split()[:3] for line in answer.out.splitlines()[1:6] if line[:1].strip()]
    assert ["small", "90a", "missing"] in states
    assert ["large", "90a+120f", "built"] in states
    assert "blackwell 100f\n  no nvcc\n  next: get one" in answer.out
    assert [maker.orders for maker in plugin.makers.values()] == [[], [], []]
    found = cli("build", "acme", "--list", "--json").json["libraries"]
    assert [row["state"] for row in found] == ["missing", "built", "impossible"]
