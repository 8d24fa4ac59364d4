"""The conformance suite: ``pytest --pyargs quantmux.testing.suite --backend NAME``."""

from __future__ import annotations
