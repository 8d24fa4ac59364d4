"""The policy of a ``with`` block, kept per thread and per asyncio task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from quantmux.config.policy import Policy
from quantmux.config.settings import check_without_plugins

_CURRENT: Final[ContextVar[Policy | None]] = ContextVar("quantmux_policy", default=None)


def current_context() -> Policy | None:
    """Give what the enclosing `use_policy` blocks set, the inner over the outer, or None."""
    return _CURRENT.get()


@contextmanager
def use_policy(policy: Policy | None = None, /, **settings: Any) -> Iterator[Policy]:
    """Set policy for the calls inside a ``with`` block.

    ``with use_policy(order=["triton"], deny=["cutlass/*"]): ...``. It goes over plugins.toml and
    under what a call says itself; blocks nest, key by key. Other threads do not see it; asyncio
    tasks started inside do.

    Args:
        policy: A whole policy; ``settings`` go over it.
        **settings: Keys of `Policy`.

    Raises:
        ConfigError: A key or a value is not one of a policy, or ``plugins`` is set.
    """
    given = Policy(**settings)
    if policy is not None:
        given = policy.overlaid(given)
    check_without_plugins(given, "a context")
    outer = _CURRENT.get()
    effective = given if outer is None else outer.overlaid(given)
    token = _CURRENT.set(effective)
    try:
        yield effective
    finally:
        _CURRENT.reset(token)
