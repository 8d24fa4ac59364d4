"""Libraries of plugins: what a plugin may say of them, and how they are made together."""

import _thread
import threading
from pathlib import Path

import pytest

from quantmux.capability.arch import Arch
from quantmux.errors import BuildError, PluginError
from quantmux.registry import Registry
from quantmux.registry.ledger_versions import compiled_by, version_change, versions_here
from quantmux.registry.library_build import Interrupted, make_libraries
from quantmux.registry.library_unit import LibraryMade, LibraryUnit

from .conftest import make_kernel


def unit(name="lib", make=None, **fields):
    def made(_order):
        return LibraryMade(Path(name), 1.0, 10, 100)

    fields = {"target": "90a", "kernels": ("acme/one",), **fields}
    return LibraryUnit(name, make=make or made, **fields)


def registry_of(plugin, answer):
    return Registry.of({"acme": plugin(quantmux_libraries=lambda _self: answer())})


def test_a_plugin_without_libraries_has_none(plugin):
    registry = Registry.of({"acme": plugin()})
    assert registry.libraries("acme") == ()
    assert registry.libraries("nobody") == ()


def test_a_plugin_says_which_libraries_it_has(plugin):
    lib = unit(target="90a+100f", state="built")
    (found,) = registry_of(plugin, lambda: [lib]).libraries("acme")
    assert found is lib
    assert found.is_there
    assert found.targets == ("90a", "100f")
    runs = [name for name in ("90", "100", "103", "120", "89") if lib.runs_on(Arch.parse(name))]
    assert runs == ["90", "100", "103"]


def _raises():
    raise RuntimeError("no idea")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (_raises, "RuntimeError: no idea"),
        (lambda: ["lib"], "returned str from quantmux_libraries"),
        (lambda: 7, "int"),
        (lambda: [unit(target="sm_90a")], 'the target "sm_90a", which is none'),
        (lambda: [unit(state="fine")], "the state 'fine'"),
        (lambda: [unit(kernels=("other/one",))], "kernels of another backend: other/one"),
        (lambda: [unit(name=3)], "name or target is not a str"),
    ],
)
def test_a_plugin_that_says_rubbish_of_its_libraries_is_named(plugin, answer, words):
    registry = registry_of(plugin, answer)
    with pytest.raises(PluginError) as caught:
        registry.libraries("acme")
    assert caught.value.plugin == "acme"
    assert words in str(caught.value)
    # its kernels are as good as before
    assert registry.get("acme/one")


def test_all_are_made_the_longest_first_and_given_in_their_order():
    begun = []
    gate = threading.Barrier(3)

    def make(name):
        def made(_order):
            begun.append(name)
            gate.wait(5)  # all of them at once: each waits for its own turn
            return LibraryMade(Path(name))

        return made

    units = [unit(n, make(n), seconds=s) for n, s in (("a", 1), ("b", 3), ("c", 2))]
    results = make_libraries(units)
    assert [r.unit.name for r in results] == ["a", "b", "c"]
    assert [r.made.path.name for r in results] == ["a", "b", "c"]
    assert begun[0] == "b"
    assert make_libraries([]) == ()


def test_the_order_reaches_every_maker(tmp_path):
    orders = []

    def make(order):
        orders.append(order)
        order.tell("compiling")
        return LibraryMade(tmp_path / "a", was_there=True)

    heard = []

    class Progress:
        def step(self, unit, phase):
            heard.append((unit.name, phase))

        def done(self, result):
            heard.append(result.state)

    make_libraries([unit(make=make)], jobs=3, force=True, into=tmp_path, progress=Progress())
    (order,) = orders
    assert (order.jobs, order.force, order.into) == (3, True, tmp_path)
    assert heard == [("lib", "compiling"), "there"]


@pytest.mark.parametrize(
    ("failure", "state"),
    [
        (BuildError("nvcc refuses", code="compile"), "failed"),
        (BuildError("no nvcc", code="no_compiler"), "impossible"),
        (BuildError("old headers", code="headers"), "impossible"),
        (BuildError("no library", code="unavailable"), "impossible"),
        (BuildError("stopped", code="interrupted"), "interrupted"),
        (RuntimeError("a bug"), "failed"),
        (SystemExit(3), "failed"),
    ],
)
def test_one_that_fails_does_not_end_the_others(failure, state):
    def bad(_order):
        raise failure

    first, second = make_libraries([unit("bad", bad), unit("good")])
    assert (first.state, first.made) == (state, None)
    assert str(failure) in str(first.error)
    assert second.state == "built"


def test_a_maker_that_gives_rubbish_has_failed():
    (result,) = make_libraries([unit(make=lambda _order: "a path")])
    assert "gave a str, not a LibraryMade" in str(result.error)


def test_ctrl_c_ends_the_compilers_and_gives_what_was_done():
    ended = threading.Event()

    def slow(order):
        threading.Timer(0.3, _thread.interrupt_main).start()
        if order.stop.wait(10):
            ended.set()
        raise BuildError("stopped", code="interrupted")

    with pytest.raises(Interrupted) as caught:
        make_libraries([unit("slow", slow)])
    assert isinstance(caught.value, KeyboardInterrupt)
    assert ended.is_set()
    assert {result.state for result in caught.value.results} <= {"interrupted"}


def test_evidence_names_what_compiled_a_kernel_and_holds_for_that_release():
    spec = make_kernel(versions=lambda: {"nvcc": "13.0.88"})
    assert versions_here(spec)["nvcc"] == "13.0.88"
    assert version_change(spec, {"nvcc": "13.0.12"}) == ""
    assert version_change(spec, {"nvcc": "12.9.1"}) == "nvcc 12.9.1 was run, 13.0.88 is here"
    # a kernel that nvcc has no part in does not mind
    assert version_change(make_kernel(), {"nvcc": "12.9.1"}) == ""


def test_a_kernel_that_raises_when_asked_what_compiled_it_has_said_nothing():
    assert compiled_by(make_kernel(versions=_raises)) == {}
