import logging

import pytest

from quantmux.errors import BuildError, LaunchError, NoKernelError, PluginError, ShapeError
from quantmux.runtime.events import FallbackEvent, one_line, report, reset_stats, stats

EVENT = FallbackEvent("a/x", "b/y", "build", "nvcc is missing", "h200", "digest", "model.0.q")


@pytest.fixture(autouse=True)
def _fresh():
    reset_stats()
    yield
    reset_stats()


def test_an_event_is_logged_once_and_counted_each_time(caplog):
    with caplog.at_level(logging.WARNING, "quantmux"):
        report(EVENT, "warn")
        report(EVENT, "warn")
    assert [r.name for r in caplog.records] == ["quantmux.build"]
    assert "a/x" in caplog.text
    assert "b/y is taken" in caplog.text
    assert "nvcc is missing" in caplog.text
    assert stats()["build"] == 2
    (entry,) = stats()["events"]
    assert entry["count"] == 2
    assert entry["layer"] == "model.0.q"


def test_layers_that_fall_back_alike_share_one_warning_but_not_the_count(caplog):
    with caplog.at_level(logging.WARNING, "quantmux"):
        for i in range(61):
            report(FallbackEvent("a/x", "b/y", "run", "no", "h200", "d", f"layers.{i}"), "warn")
    assert len(caplog.records) == 1
    assert stats()["run"] == 61
    assert len(stats()["events"]) == 61


def test_silent_logs_nothing_and_still_counts(caplog):
    with caplog.at_level(logging.DEBUG, "quantmux"):
        report(EVENT, "silent")
    assert not caplog.records
    assert stats()["build"] == 1


@pytest.mark.parametrize(
    ("stage", "kind"),
    [("load", PluginError), ("select", NoKernelError), ("build", BuildError), ("run", LaunchError)],
)
def test_mode_error_raises_the_stage_s_error_with_the_cause(stage, kind):
    cause = RuntimeError("boom")
    event = FallbackEvent("a/x", "b/y", stage, "boom", "h200", layer="q")
    with pytest.raises(kind) as caught:
        report(event, "error", cause=cause)
    assert caught.value.__cause__ is cause
    assert "boom" in str(caught.value)
    assert "layer q" in str(caught.value)
    (entry,) = stats()["events"]
    assert entry["taken"] is None


def test_reset_forgets_counts_and_warnings(caplog):
    report(EVENT, "warn")
    reset_stats()
    assert stats() == {"load": 0, "select": 0, "build": 0, "run": 0, "events": []}
    caplog.clear()
    with caplog.at_level(logging.WARNING, "quantmux"):
        report(EVENT, "warn")
    assert len(caplog.records) == 1


def test_a_long_process_keeps_no_endless_list(monkeypatch):
    from quantmux.runtime import events

    monkeypatch.setattr(events, "_KEPT", 3)
    for i in range(10):
        report(FallbackEvent("a/x", None, "run", f"at {i:#x}", "h200"), "warn")
    assert stats()["run"] == 10
    assert len(stats()["events"]) == 3


def test_the_library_has_a_null_handler_on_its_root_logger_alone():
    handlers = logging.getLogger("quantmux").handlers
    assert any(isinstance(h, logging.NullHandler) for h in handlers)
    assert not logging.getLogger("quantmux.build").handlers


def test_an_exception_becomes_one_line():
    assert one_line(RuntimeError("a\n b")) == "RuntimeError: a b"
    assert one_line(KeyError()) == "KeyError"
    assert one_line(ShapeError("x is wrong", facts={"need": 1})) == "x is wrong; need 1"


def test_plugins_hear_of_an_event_and_may_raise(shop, caplog):
    shop.consumer("one/a")
    context = shop.context()
    context.report(EVENT, "silent")
    assert shop.plugins[0].heard == [EVENT]
    shop.plugins[0].heard = None  # append now raises inside the hook
    context.report(EVENT, "silent")
    assert "ignored" in caplog.text
