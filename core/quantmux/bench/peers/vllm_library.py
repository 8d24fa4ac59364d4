"""vLLM's compiled operations, loaded without vLLM's Python."""

from __future__ import annotations

from functools import cache
from importlib import util
from pathlib import Path
from typing import Any, Final

import torch

from quantmux.registry.guard import describe, guarded

_FILES: Final = ("_C.abi3.so", "_C_stable_libtorch.abi3.so")
"""Since vLLM 0.22 the operations are spread over both; earlier ones have the first alone."""


def missing(*names: str) -> str:
    """Give why operations of these names cannot be called here, "" when they can."""
    if util.find_spec("vllm") is None:
        return "vllm is not installed"
    found = guarded(_load)
    if found.error is not None:
        return describe(found.error)
    absent = [name for name in names if not hasattr(operations(), name)]
    return f"this vllm has no {absent[0]}" if absent else ""


def operations() -> Any:
    """Give the namespace of its operations."""
    return torch.ops._C  # noqa: SLF001 - the namespace that vLLM has chosen


@cache
def _load() -> None:
    # `import vllm` needs a hundred other packages; a folder "vllm" that holds these files will do
    spec = util.find_spec("vllm")
    places = [Path(p) for p in (spec.submodule_search_locations if spec else None) or ()]
    files = [f for name in _FILES for place in places if (f := place / name).exists()]
    if not files:
        raise OSError(f"no {_FILES[0]} in {', '.join(map(str, places))}")
    load: Any = torch.ops.load_library  # torch has no types for it
    for file in files:
        load(str(file))
