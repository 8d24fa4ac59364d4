"""The shipped proof: cells made from capabilities, run against the reference, by anybody.

A *cell* is one kernel asked one question: a case of its op, or a property such as "a captured graph
replays to the bit". It has one of four outcomes.
"""

from __future__ import annotations

from quantmux.testing.launches import Launch, Launches, launches

__all__ = ["Launch", "Launches", "launches"]
