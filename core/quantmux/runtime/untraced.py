"""The way past torch.compile: imported only while dynamo traces, since it loads dynamo itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable


_disable: Any = torch.compiler.disable  # untyped in torch


@_disable(reason="a kernel pipeline of quantmux is not traced")  # type: ignore[untyped-decorator]
def untraced(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function that dynamo neither traces nor looks into; a graph break stands there.

    Dynamo does not guard on what a bound call is closed over (an operand, a layout, a kernel), so
    a graph made for one layer would be run, silently wrong, for another one. ``fullgraph=True``
    thus raises: it becomes possible when each pipeline is one `torch.library` op.
    """
    return function(*args, **kwargs)
