"""A kernel that says that it cannot serve here: the next serves, nothing is held against it."""

import logging

import pytest
import torch

from quantmux.capability.rejection import RejectionCode
from quantmux.errors import BuildError, LaunchError, NotBuiltError
from quantmux.ops.linear.reference import linear
from quantmux.runtime.binding import bind
from quantmux.runtime.failures import declines

UNAVAILABLE = BuildError(
    "one/picky cannot be used", facts=["no ninja"], hint="pip install ninja", code="unavailable"
)
UNSUPPORTED = BuildError("one/picky does not serve sm90", code="unsupported")


@pytest.fixture
def picky(shop):
    """one/picky is to serve and raises what the test puts into it; two/good is next."""
    shop.producer("one/quantize")
    fault = shop.consumer("one/picky")
    shop.consumer("two/good")
    return fault


def says(fault, error, at):
    meet = fault.meet

    def met(stage):
        if stage == at:
            raise error
        meet(stage)

    fault.meet = met
    return meet


def bound_of(shop, context, **kwargs):
    return bind(shop.select(context), shop.weights(), context=context, **kwargs)


@pytest.mark.parametrize("error", [UNAVAILABLE, UNSUPPORTED], ids=lambda e: e.code)
@pytest.mark.parametrize("stage", ["prepare", "bind"])
def test_the_next_kernel_serves_and_the_reason_is_shown_without_quarantine(
    shop, picky, caplog, error, stage
):
    says(picky, error, stage)
    context = shop.context(order=("one", "two"))
    with caplog.at_level(logging.WARNING, "quantmux"):
        bound = bound_of(shop, context, layer="model.q")
    x = shop.x(3)
    assert torch.equal(bound(x), linear(x, shop.weights(), shop.config))
    assert bound.selection.kernels[-1] == "two/good"
    assert context.quarantine.entries() == ()
    (event,) = bound.events
    assert (event.stage, event.taken) == ("build", "one/quantize -> two/good")
    assert error.headline in event.reason
    assert len(caplog.records) == 1
    (reason,) = bound.selection.rejected["one/picky"]
    assert reason.code is RejectionCode.UNAVAILABLE
    assert error.headline in reason.actual
    assert reason.hint == error.hint


def test_the_next_bind_asks_again(shop, picky):
    meet = says(picky, UNAVAILABLE, "bind")
    context = shop.context(order=("one", "two"), fallback={"build": "silent"})
    assert bound_of(shop, context).pipeline_for(2).main.id == "two/good"
    picky.meet = meet  # the tool has been installed
    assert bound_of(shop, context).pipeline_for(2).main.id == "one/picky"


def test_one_that_declines_in_a_call_is_out_of_its_layer_only(shop, picky):
    context = shop.context(order=("one", "two"), fallback={"build": "silent", "run": "silent"})
    bound = bound_of(shop, context)
    picky.run = lambda _m: UNSUPPORTED
    x = shop.x(3)
    assert torch.equal(bound(x), linear(x, shop.weights(), shop.config))
    assert bound.pipeline_for(3).main.id == "two/good"
    assert context.quarantine.entries() == ()


def test_the_policy_error_raises(shop, picky):
    says(picky, UNAVAILABLE, "bind")
    context = shop.context(order=("one", "two"), fallback={"build": "error"})
    with pytest.raises(BuildError, match="no ninja"):
        bound_of(shop, context)


def test_when_nothing_else_serves_the_reason_is_in_the_error(shop):
    shop.producer("one/quantize")
    says(shop.consumer("one/picky"), UNAVAILABLE, "bind")
    with pytest.raises(BuildError, match="no ninja"):
        bound_of(shop, shop.context(order=("one",)))


def test_a_compiler_that_fails_is_still_quarantined(shop, picky):
    says(picky, BuildError("nvcc says no", code="compile"), "bind")
    context = shop.context(order=("one", "two"), fallback={"build": "silent"})
    bound_of(shop, context)
    assert [entry.kernel for entry in context.quarantine.entries()] == ["one/picky"]


@pytest.mark.parametrize(
    "error",
    [
        NotBuiltError("later"),
        BuildError("no"),
        LaunchError("no", code="unsupported"),
        RuntimeError("unsupported"),
    ],
    ids=repr,
)
def test_nothing_else_counts_as_declining(error):
    assert not declines(error)
