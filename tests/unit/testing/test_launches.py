"""Counting launches: what is made of the profiler's records, whole ones and broken ones."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from quantmux.errors import RunError
from quantmux.testing import Launch, Launches, launches
from quantmux.testing.launches import kind_of, launches_of

FENCE = Launch("at::cuda::(anonymous namespace)::spin_kernel(long)")
A, B = Launch("_quantize"), Launch("void gemm<int>(int*)")


@pytest.fixture
def gpu(monkeypatch):
    """A GPU whose profiler gives the readings that a test lays down, one after the other."""

    def lay(*readings):
        rest = list(readings)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
        module = sys.modules["quantmux.testing.launches"]
        monkeypatch.setattr(module, "_recorded", lambda _call, _calls: rest.pop(0))
        return rest

    return lay


def whole(*calls):
    return [FENCE, *(launch for call in calls for launch in (*call, FENCE))]


def test_two_readings_that_agree_are_the_answer(gpu):
    rest = gpu(whole([A, B], [A, B]), whole([A, B], [A, B]), ["not looked at"])
    made = []
    found = launches(lambda: made.append(1), warm=3)
    assert len(made) == 3
    assert rest == [["not looked at"]]
    assert (found.count, found.kernels, found.is_steady) == (2, 2, True)
    assert found.names == ("_quantize", "void gemm<int>(int*)")


@pytest.mark.parametrize(
    "broken",
    [
        [],
        whole([A, B], [A, B])[:-1],  # the end is missing
        whole([A, B], [A, B])[1:],  # the beginning is
        [FENCE, A, B, A, B, FENCE],  # the fence between is
        whole([A], [A, B]),  # a launch is
        whole([A], [A]),  # the same launch is, twice
    ],
)
def test_a_record_with_a_loss_is_read_again(gpu, broken):
    good = whole([A, B], [A, B])
    gpu(broken, good, good)
    assert launches(lambda: None).count == 2


def test_a_profiler_that_never_says_the_same_twice_is_an_error(gpu):
    gpu(*[whole(*[[A] * number] * 2) for number in range(6)])
    with pytest.raises(RunError, match="never counted the same twice") as caught:
        launches(lambda: None)
    assert caught.value.code == "profiler"
    assert len(caught.value.facts) == 6


def test_without_fences_the_error_says_how_many_records_there_were(gpu):
    gpu(*[[A, A, A]] * 6)
    with pytest.raises(RunError) as caught:
        launches(lambda: None)
    assert "3 records with 0 of 3 fences" in caught.value.facts


def test_calls_that_differ_are_told_apart(gpu):
    gpu(*[whole([A], [A, B])] * 2)
    found = launches(lambda: None)
    assert not found.is_steady
    assert found.count == 2
    assert "the 2 calls differ: [1, 2]" in str(found)


def test_without_a_gpu_the_error_says_what_is_missing():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(RunError, match="there is none here") as caught:
        launches(lambda: None)
    assert caught.value.code == "no_gpu"


def event(name, start, device="DeviceType.CUDA", *, marked=False):
    times = SimpleNamespace(start=start)
    return SimpleNamespace(
        name=name, time_range=times, device_type=device, is_user_annotation=marked
    )


def test_only_what_ran_on_the_gpu_counts_and_in_the_order_in_which_it_began():
    events = [
        event("aten::mul", 1, "DeviceType.CPU"),
        event("second", 30),
        event("## Call CompiledFxGraph ##", 5, marked=True),
        event("Memcpy DtoD (Device -> Device)", 20),
        event("first", 10),
    ]
    assert [launch.name for launch in launches_of(events)] == [
        "first",
        "Memcpy DtoD (Device -> Device)",
        "second",
    ]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Memcpy HtoD (Pinned -> Device)", "memcpy"),
        ("Memset (Device)", "memset"),
        ("memcpy32_post", "kernel"),
        ("Memcpy_of_mine", "kernel"),
        (
            "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>",
            "kernel",
        ),
    ],
)
def test_the_drivers_copies_and_fills_are_told_from_kernels(name, kind):
    assert kind_of(name) == kind


def test_the_text_has_the_count_and_every_name():
    found = Launches(((A, Launch("Memset (Device)", "memset"), B),) * 2)
    assert str(found).splitlines() == [
        "3 launches per call: 2 kernels, 1 memset",
        "  kernel  _quantize",
        "  memset  Memset (Device)",
        "  kernel  void gemm<int>(int*)",
    ]
    assert str(Launches(((), ()))) == "0 launches per call"
    assert str(Launches(((A,),))).startswith("1 launch per call: 1 kernel\n")
    assert found.to_dict()["memsets"] == 1
