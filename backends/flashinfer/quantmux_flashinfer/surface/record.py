r"""Records the FlashInfer that Python finds: ``python -m quantmux_flashinfer.surface.record``.

It imports that release, which no other module of `surface` does, and writes
``recorded/<version>.json``. Another release than the installed one is put in front of it, with a
folder of its own for what its import writes::

    PYTHONPATH=/a/folder/with/flashinfer FLASHINFER_WORKSPACE_BASE=/a/folder \
        python -m quantmux_flashinfer.surface.record
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from pathlib import Path
from typing import Any

from quantmux_flashinfer.catalog import functions
from quantmux_flashinfer.surface.declared import Kind, Parameter, written
from quantmux_flashinfer.surface.reader import read_surface
from quantmux_flashinfer.surface.records import ASKED, FOLDER, Answers

WATCHED = frozenset(
    {
        "flashinfer:block_scale_interleave",
        "flashinfer:bmm_fp8",
        "flashinfer:fp4_quantize",
        "flashinfer:mm_bf16_fp4",
        "flashinfer:mm_fp4",
        "flashinfer:mm_fp8",
        "flashinfer:nvfp4_quantize",
        "flashinfer:prepare_bf16_fp4_weights",
        "flashinfer:rmsnorm_quant",
        "flashinfer:silu_and_mul_nvfp4_quantize",
        "flashinfer.gemm:fp8_blockscale_gemm_sm90",
        "flashinfer.gemm:gemm_fp8_nt_groupwise",
        "flashinfer.rope:rope_quantize_fp8",
        "flashinfer.trtllm_low_latency_gemm:prepare_low_latency_gemm_weights",
        # not called here, each for a reason that a release may take away
        "flashinfer:fused_add_rmsnorm_fp8_block_quant",
        "flashinfer:mm_mxfp8",
        "flashinfer:mxfp8_quantize",
        "flashinfer:nvfp4_kv_dequantize",
        "flashinfer:silu_and_mul_mxfp8_quantize",
    }
)
"""Functions that are recorded whether a kernel calls them or not."""

_KINDS: dict[Any, Kind] = {
    inspect.Parameter.POSITIONAL_ONLY: "positional",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional",
    inspect.Parameter.KEYWORD_ONLY: "keyword",
    inspect.Parameter.VAR_POSITIONAL: "rest",
    inspect.Parameter.VAR_KEYWORD: "keywords",
}


def answers_of(name: str, backends: tuple[str, ...]) -> Answers | None:
    """Ask a function of the library about itself; None where there is none.

    Args:
        name: ``module:name``.
        backends: Names to ask about; the library has no list of them to give.
    """
    module, _, attribute = name.partition(":")
    try:
        function: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        return None
    experimental = tuple(sorted(getattr(function, "experimental_backends", ())))
    listed = _backends(function, backends)
    return Answers(_parameters(function), listed, _archs(function), experimental)


def _parameters(function: Any) -> tuple[str, ...]:
    found = inspect.signature(function).parameters.values()
    ours = [(p.name, _KINDS[p.kind], p.default is p.empty) for p in found]
    return tuple(
        written(Parameter(name, kind, is_empty and kind in ("positional", "keyword")))
        for name, kind, is_empty in ours
    )


def _backends(function: Any, names: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    has = getattr(function, "has_backend_choices", None)
    if has is None or not has():
        return {}
    given = [name for name in names if function.has_backend(name)]
    return {
        name: tuple(sm for sm in ASKED if function.is_backend_supported(name, sm)) for name in given
    }


def _archs(function: Any) -> tuple[int, ...] | None:
    has = getattr(function, "has_backend_choices", None)
    if has is None or has():
        return None
    try:
        return tuple(sm for sm in ASKED if function.is_compute_capability_supported(sm))
    except ValueError:  # it lists none
        return None


def main() -> int:
    """Write the file of the release that is found; gives the exit status."""
    os.environ["FLASHINFER_NO_DOWNLOAD"] = "1"
    library: Any = importlib.import_module("flashinfer")
    surface, _ = read_surface(Path(library.__file__).parent, functions() | WATCHED)
    answers: dict[str, Any] = {}
    for name, found in sorted(surface.functions.items()):
        given = answers_of(name, known(found))
        if given is not None:
            answers[name] = {
                "parameters": given.parameters,
                "backends": given.backends,
                "archs": given.archs,
                "experimental": given.experimental,
            }
    file = FOLDER / f"{surface.version}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(_text(surface.to_dict(), answers), encoding="utf-8")
    sys.stdout.write(f"{file}: {len(answers)} functions of flashinfer {surface.version}\n")
    return 0


def known(found: Any) -> tuple[str, ...]:
    """Give every name of a backend that a function may know."""
    return () if found is None else tuple(dict.fromkeys((*found.backends, *(found.choices or ()))))


def _text(surface: dict[str, Any], answers: dict[str, Any]) -> str:
    """Give JSON with one function on each line: readable, and a change is one line of a diff."""

    def lines(data: dict[str, Any]) -> str:
        inside = ",\n".join(f"   {json.dumps(k)}: {json.dumps(v)}" for k, v in data.items())
        return "{\n" + inside + "\n  }"

    return (
        f'{{\n "schema": 1,\n "surface": {{\n  "version": {json.dumps(surface["version"])},\n'
        f'  "functions": {lines(surface["functions"])},\n'
        f'  "artifacts": {lines(surface["artifacts"])}\n }},\n "answers": {lines(answers)}\n}}\n'
    )


if __name__ == "__main__":
    raise SystemExit(main())
