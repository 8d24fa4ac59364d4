"""Behind a call on the stream of inductor's CUDA-graph trees plugins let go of what they keep."""

import sys
import types

import pytest
import torch

from quantmux.runtime.traced import release
from quantmux.runtime.traced.release import released


class Manager:
    def __init__(self, stream):
        self.stream = types.SimpleNamespace(cuda_stream=stream)


@pytest.fixture
def told(monkeypatch):
    """A GPU's stream 7, on which the trees run, and a plugin that hears of it."""
    heard = []
    state = {"stream": 7, "capturing": False, "manager": Manager(7)}
    trees = types.ModuleType("trees")

    def get_manager(device, *, create_if_none_exists):
        assert (device, create_if_none_exists) == (0, False)
        if isinstance(state["manager"], BaseException):
            raise state["manager"]
        return state["manager"]

    trees.get_manager = get_manager
    monkeypatch.setitem(sys.modules, release._TREES, trees)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(
        torch.cuda,
        "current_stream",
        lambda device: types.SimpleNamespace(cuda_stream=state["stream"]),  # noqa: ARG005
    )
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state["capturing"])
    plugin = types.SimpleNamespace(release=lambda device, stream: heard.append((device, stream)))
    monkeypatch.setattr(release, "registries", lambda: [plugin])
    return state, heard


def test_a_call_on_the_trees_stream_is_followed_by_a_release(told):
    _, heard = told
    assert released(lambda x: x + 1)(2) == 3
    assert heard == [(0, 7)]


@pytest.mark.parametrize(
    "change",
    [
        {"stream": 8},
        {"capturing": True},
        {"manager": None},
        {"manager": AssertionError()},
        {"manager": KeyError()},
    ],
)
def test_any_other_call_releases_nothing(told, change):
    state, heard = told
    state.update(change)
    assert released(lambda x: x + 1)(2) == 3
    assert heard == []


def test_without_inductor_nothing_is_asked(told, monkeypatch):
    _, heard = told
    monkeypatch.delitem(sys.modules, release._TREES)
    assert released(lambda x: x)(1) == 1
    assert heard == []


def test_triton_lets_go_of_one_stream_alone():
    from quantmux.registry import load_registry
    from quantmux_triton.linear import workspace

    held = {(0, 5): object(), (0, 6): object(), (1, 5): object()}
    before = dict(workspace._streams)
    workspace._streams.update(held)
    try:
        load_registry().release(0, 5)
        left = {key for key in held if key in workspace._streams}
        assert left == {(0, 6), (1, 5)}
    finally:
        workspace._streams.clear()
        workspace._streams.update(before)


def test_a_plugin_that_raises_is_told_of_once(shop, caplog):
    shop.producer("one/quantize")
    context = shop.context()

    def broken(device, stream):
        raise RuntimeError(f"{device} {stream}")

    registry = context.registry
    registry._ask = lambda _name, _hook, **given: broken(**given)
    registry.release(0, 1)
    registry.release(0, 1)
    assert caplog.text.count("raised in quantmux_release, ignored") == 1
