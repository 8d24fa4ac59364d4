"""The device guard, on a machine without a GPU: torch's questions are answered by hand."""

from contextlib import contextmanager

import pytest
import torch

from quantmux.capability.profiles import profile
from quantmux.errors import InputError
from quantmux.runtime import calls


class OnDevice:
    def __init__(self, name):
        self.device = torch.device(name)


@pytest.fixture
def cuda(monkeypatch):
    state = {"current": 0, "count": 2, "entered": []}

    @contextmanager
    def device(index):
        state["entered"].append(index)
        before, state["current"] = state["current"], index
        yield
        state["current"] = before

    monkeypatch.setattr(torch.cuda, "device_count", lambda: state["count"])
    monkeypatch.setattr(torch.cuda, "current_device", lambda: state["current"])
    monkeypatch.setattr(torch.cuda, "device", device)
    return state


def second_gpu():
    return profile("h200").replace(is_present=True, index=1)


def test_a_call_runs_under_the_device_of_its_weights(cuda):
    call = calls.guarded(lambda _: cuda["current"], second_gpu())
    assert call(OnDevice("cuda:1")) == 1
    assert cuda["current"] == 0
    cuda["current"] = 1
    assert call(OnDevice("cuda:1")) == 1
    assert cuda["entered"] == [1]


def test_an_x_on_another_gpu_is_refused(cuda):
    call = calls.guarded(lambda _: None, second_gpu())
    with pytest.raises(InputError, match="cuda:0"):
        call(OnDevice("cuda:0"))
    assert cuda["entered"] == []


def test_one_gpu_and_the_cpu_need_no_guard(cuda):
    def call(x):
        return x

    assert calls.guarded(call, profile("cpu")) is call
    cuda["count"] = 1
    assert calls.guarded(call, second_gpu()) is call


def test_dynamo_is_sent_past_the_guard_as_past_the_call(cuda, monkeypatch):
    call = calls.guarded(lambda _, more: (cuda["current"], more), second_gpu())
    monkeypatch.setattr(torch.compiler, "is_dynamo_compiling", lambda: True)
    assert call(OnDevice("cuda:1"), more=2) == (1, 2)
    assert (cuda["current"], len(cuda["entered"])) == (0, 1)
    with pytest.raises(InputError, match="cuda:0"):
        call(OnDevice("cuda:0"), more=2)
