"""OpSpec: what every op offers to backends, tests and tools, gathered under one name.

The specs are built on first use, so that importing one op does not import all of them.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from quantmux.config._base import closest
from quantmux.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from quantmux.ops.quantized import QuantizedTensor

__all__ = ["OP_SPECS", "Call", "Case", "OpSpec", "op_spec"]

OP_NAMES: Final = (
    "quantize",
    "silu_mul_quantize",
    "inverse_rope_quantize",
    "rmsnorm_quantize",
    "rope_quantize",
    "linear",
    "relayout",
)


@dataclass(frozen=True, slots=True)
class Case:
    """One test of an op: a config, a number of rows, and what the inputs hold.

    Attributes:
        config: Layer config of the op.
        m: Rows (tokens).
        kind: What the inputs hold; see `quantmux.ops.inputs.KINDS`.
        magnitude: Size of typical input elements.
        source: Why the case exists: the edge it sits on, or the model its shape is from.
        is_small: Whether an interpreter on a CPU can run it in well under a second.
    """

    config: Any
    m: int
    kind: str = "normal"
    magnitude: float = 1.0
    source: str = ""
    is_small: bool = True

    def __str__(self) -> str:
        return f"{self.config} M={self.m} {self.kind}*{self.magnitude:g}"


@dataclass(frozen=True, slots=True)
class Call:
    """Inputs of one call: ``reference(*args, config, **kwargs)``, ``bound(*args, **kwargs)``.

    A linear's args are (x, weights) for the reference; its bound function takes x alone.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OpSpec:
    """What one op means and how it is proved.

    Attributes:
        name: Name of the op.
        summary: One line.
        reference: The definition, ``reference(*args, config, **kwargs)``.
        fake: ``fake(config, m)``: an output of the right shape, strides and dtype on "meta".
        cases: Gives the test cases: zero-size and odd shapes first, real layers last.
        inputs: ``inputs(case, device, seed)``: the inputs of one call; the same numbers on
            every device.
        values: ``values(*args, config)`` for ops with rounding freedom (exp, rotation): the fp32
            matrix that is then quantized, which kernels are judged by. None where kernels must
            agree to the bit, and for ``linear``, which has `quantmux.ops.linear.tolerance`.
    """

    name: str
    summary: str
    reference: Callable[..., torch.Tensor | QuantizedTensor]
    fake: Callable[[Any, int], torch.Tensor | QuantizedTensor]
    cases: Callable[[], tuple[Case, ...]]
    inputs: Callable[[Case, torch.device | str, int], Call]
    values: Callable[..., torch.Tensor] | None = None


@cache
def op_spec(name: str) -> OpSpec:
    """Give the specification of an op.

    Raises:
        ConfigError: There is no such op.
    """
    if name not in OP_NAMES:
        near = closest(name, OP_NAMES)
        raise ConfigError(
            f'there is no op "{name}"',
            facts=["ops: " + " ".join(OP_NAMES)],
            hint=f'did you mean "{near}"?' if near else None,
        )
    spec: OpSpec = importlib.import_module(f"quantmux.ops.{name}.spec").build_spec()
    return spec


if TYPE_CHECKING:
    OP_SPECS: Mapping[str, OpSpec]


def __getattr__(name: str) -> Any:
    if name == "OP_SPECS":
        return {op: op_spec(op) for op in OP_NAMES}
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
