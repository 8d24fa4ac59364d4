"""Where a node of a graph comes from, in words that a person knows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantmux.errors import QuantmuxError
from quantmux.runtime.traced.keys import linear_program, producer_program

if TYPE_CHECKING:
    from torch.fx import Node

    from quantmux.compile.values import Reader, Sink

NAMES: Final = "quantmux_names"
"""Where a fused op's node keeps the names of its linears."""

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


def into_of(sink: Sink) -> tuple[str, ...]:
    """Name what reads a quantized value: layers, or the config of a quantizer."""
    if sink.is_linear:
        return tuple(map(name_of, sink.readers()))
    try:
        config: Any = producer_program(sink.key).config
    except QuantmuxError:
        return (sink.key,)
    return (f"quantize {config.operand.name} {config.layout}",)


def name_of(linear: Reader) -> str:
    """Name a linear as its model calls it, else say what it is."""
    if linear.place is None:
        name = module_of(linear.node)
    else:
        name = dict(enumerate(linear.node.meta.get(NAMES, ()))).get(linear.place)
    if name is not None:
        return name
    try:
        config: Any = linear_program(linear.key).selection.config
    except QuantmuxError:
        return linear.key
    return f"{config.scheme.name} {config.n}x{config.k}"


def module_of(node: Node) -> str | None:
    """Give the name of the module whose forward made a node; None where the graph lacks it."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return None
    path, _ = list(stack.values())[-1]
    name = _ROOT.sub("", str(path)).replace("._modules[", "[")
    return _INDEX.sub(r".\1", name).strip(".") or None


__all__ = ["NAMES", "into_of", "line_of", "module_of", "name_of"]
