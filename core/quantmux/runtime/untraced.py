"""The way past torch.compile: imported only while dynamo traces, since it loads dynamo itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable


_disable: Any = torch.compiler.disable  # untyped in torch


@_disable(reason="this call of quantmux is not traced")  # type: ignore[untyped-decorator]
def untraced(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function that dynamo neither traces nor looks into; a graph break stands there.

    Layers and producers are ops in a graph (`runtime.traced`). What is left: calls of a `Bound`,
    since dynamo does not guard on what one is closed over (an operand, a layout, a kernel) and
    would run a graph made for one, silently wrong, for another; and results that are written in
    place into a layout with pad rows. ``fullgraph=True`` raises there.
    """
    return function(*args, **kwargs)
