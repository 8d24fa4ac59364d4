"""Where a node of a graph comes from, in words that a person knows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantmux.errors import QuantmuxError
from quantmux.runtime.traced.keys import linear_program, producer_program

if TYPE_CHECKING:
    from torch.fx import Node

    from quantmux.compile.values import Sink

_FRAME: Final = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
_ROOT: Final = re.compile(r"^(L\['\w+'\]|G\['\w+'\]|self)")
_INDEX: Final = re.compile(r"\[['\"]?([^'\"\]]+)['\"]?\]")
_LIBRARIES: Final = ("/torch/", "/quantmux/")


def line_of(node: Node) -> str | None:
    """Give ``file:line`` of the model's code that made a node; None where the graph lacks it."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    own = [f for f in frames if not any(part in f[0] for part in _LIBRARIES)]
    if not frames:
        return None
    file, line, _ = (own or frames)[-1]
    return f"{Path(file).name}:{line}"


def into_of(sink: Sink) -> str:
    """Name what reads a quantized value: the layer as its model calls it, else what it is."""
    try:
        if sink.op != "linear":
            config: Any = producer_program(sink.key).config
            return f"quantize {config.operand.name} {config.layout}"
        config = linear_program(sink.key).selection.config
    except QuantmuxError:
        return sink.key
    return module_of(sink.node) or f"{config.scheme.name} {config.n}x{config.k}"


def module_of(node: Node) -> str | None:
    """Give the name of the module whose forward made a node; None where the graph lacks it."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return None
    path, _ = list(stack.values())[-1]
    name = _ROOT.sub("", str(path)).replace("._modules[", "[")
    return _INDEX.sub(r".\1", name).strip(".") or None


__all__ = ["into_of", "line_of", "module_of"]
