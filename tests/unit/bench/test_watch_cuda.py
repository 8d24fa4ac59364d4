"""What a failure in a capture means, and that what cannot be captured is timed eagerly."""

from types import SimpleNamespace

import pytest
import torch

from quantmux.bench.watch_cuda import EventWatch, cuda_watch, raise_if_lost
from quantmux.errors import LaunchError

CAPTURE = "CUDA error: operation failed due to a previous error during capture"
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def a_gpu(monkeypatch, *, lost):
    """Let torch say that it uses a GPU, which answers or does not."""

    def synchronize():
        if lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    one = SimpleNamespace(item=lambda: 1.0)
    monkeypatch.setattr(torch, "ones", lambda *_, **__: one)


def test_an_error_after_which_the_gpu_answers_is_no_lost_context(monkeypatch):
    a_gpu(monkeypatch, lost=False)
    raise_if_lost(RuntimeError(CAPTURE))


def test_an_error_after_which_it_does_not_is_one(monkeypatch):
    a_gpu(monkeypatch, lost=True)
    with pytest.raises(LaunchError, match="illegal memory access") as caught:
        raise_if_lost(RuntimeError("CUDA error: unspecified launch failure"))
    assert caught.value.context_poisoned


def test_words_of_cuda_on_a_host_are_no_lost_context():
    raise_if_lost(RuntimeError("CUDA error: of somebody who only says so"))


@gpu
def test_what_cannot_be_captured_is_timed_eagerly_and_says_so():
    x = torch.ones(64, device="cuda")
    watch, note = cuda_watch([lambda: x * float(x.sum())])
    assert isinstance(watch, EventWatch)
    assert note.startswith("no CUDA graph: ")
    assert watch.round() > 0.0
    (result,) = watch.again(lambda y: y.fill_(torch.nan))
    assert torch.equal(result, x * 64)
    # and a capture after a failed one
    again, note = cuda_watch([lambda: x + 1, lambda: x + 2])
    assert note == ""
    one, two = again.again(lambda y: y.fill_(torch.nan))
    assert (float(one[0]), float(two[0])) == (2.0, 3.0)
    assert torch.rand(3, device="cuda").isfinite().all()


@gpu
@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
def test_a_graph_that_writes_nothing_leaves_what_was_spoiled():
    kept = torch.ones(64, device="cuda")
    watch, note = cuda_watch([lambda: kept])
    assert note == ""
    (result,) = watch.again(lambda y: y.fill_(torch.nan))
    assert result.isnan().all()
