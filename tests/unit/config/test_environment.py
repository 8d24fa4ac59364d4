import logging

import pytest

from quantmux.config import environment


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(environment, "_warned", set())
    for name in environment.KNOWN:
        monkeypatch.delenv(name, raising=False)


def test_an_unknown_variable_is_logged_once_with_the_nearest_name(monkeypatch, caplog):
    monkeypatch.setenv("QUANTMUX_PLUGIN", "x")
    with caplog.at_level(logging.WARNING, logger="quantmux"):
        environment.variable("QUANTMUX_LOG")
        environment.variable("QUANTMUX_LOG")
    messages = [r.getMessage() for r in caplog.records if "QUANTMUX_PLUGIN " in r.getMessage()]
    assert len(messages) == 1
    assert "did you mean QUANTMUX_PLUGINS" in messages[0]


def test_known_variables_are_read_without_a_word(monkeypatch, caplog):
    for name in environment.KNOWN:
        monkeypatch.setenv(name, "value")
        assert environment.variable(name) == "value"
    assert not caplog.records


def test_an_empty_variable_counts_as_unset(monkeypatch):
    monkeypatch.setenv("QUANTMUX_CACHE_DIR", "")
    assert environment.variable("QUANTMUX_CACHE_DIR") is None


def test_no_known_variable_names_a_backend():
    assert set(environment.KNOWN) == {"QUANTMUX_PLUGINS", "QUANTMUX_CACHE_DIR", "QUANTMUX_LOG"}
