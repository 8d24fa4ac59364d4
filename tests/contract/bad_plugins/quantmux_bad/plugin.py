"""The plugin ``bad``: well-formed data, kernels that misbehave."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn

from quantmux import BackendInfo, Capability, KernelSpec, OperandOffer, hookimpl, operand

if TYPE_CHECKING:
    from collections.abc import Iterable

_CAPABILITY = Capability(
    arch="cpu",
    produces=(OperandOffer.of(operand("fp8_token"), ("row_major",)),),
    takes_padded_n=True,
    takes_padded_m=True,
    in_dtypes=("bf16", "fp16", "fp32"),
    tags=frozenset({"composite", "deterministic"}),
)

MISBEHAVE = (
    "raises",
    "raises_rudely",
    "refuses_shape",
    "exits",
    "skips",
    "xfails",
    "ends_pytest",
    "bind_raises",
    "bind_skips",
    "corrupts_behind",
    "corrupts_before",
    "gives_none",
    "gives_tensor",
    "gives_tuple",
    "gives_list",
    "gives_another_operand",
    "gives_another_width",
    "gives_no_scales",
    "lies",
)
"""Kernels that leave the process alive."""

KILL = ("dies", "dies_quietly", "segfaults", "aborts", "is_killed")
"""Kernels that end it."""

HANG = ("hangs",)


def _veto_raises(config: Any, device: Any) -> NoReturn:
    del config, device
    raise ValueError("no such table")


def _veto_exits(config: Any, device: Any) -> NoReturn:
    del config, device
    sys.exit(0)


def _veto_talks(config: Any, device: Any) -> Any:
    del config, device
    return "rather not"


def _spec(stem: str, module: str = "kernels", code: str = "", **changes: Any) -> KernelSpec:
    fields: dict[str, Any] = {
        "id": f"bad/{stem}",
        "op": "quantize",
        "capability": _CAPABILITY,
        "load": f"quantmux_bad.{module}:{code or stem}",
        "sources": (f"{module}.py",),
    }
    return KernelSpec(**{**fields, **changes})


@hookimpl
def quantmux_backend() -> BackendInfo:
    return BackendInfo(name="bad", version="1.0.0", summary="kernels that misbehave")


@hookimpl
def quantmux_kernels() -> Iterable[KernelSpec]:
    return (
        _spec("right"),
        *(_spec(stem) for stem in (*MISBEHAVE, *KILL, *HANG)),
        _spec("warmup_raises"),
        _spec("import_breaks", "breaks_on_import"),
        _spec("import_exits", "exits_on_import"),
        _spec("names_nothing"),
        _spec("names_class", code="Right"),
        _spec("names_rubbish", code="_AWAY"),
        _spec("veto_raises", code="right", veto=_veto_raises),
        _spec("veto_exits", code="right", veto=_veto_exits),
        _spec("veto_talks", code="right", veto=_veto_talks),
    )
