"""Keys: how a graph names what was bound, and what is behind a key in this process.

A graph holds the key as a string. It is made of what was selected, not of addresses: a graph that
inductor takes from its cache names the same program. Behind it stands what the process bound
while it traced, which it does in every process anew.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, WeakValueDictionary

from torch.utils._pytree import register_constant

from quantmux.config.layers import (
    InverseRopeQuantizeConfig,
    QuantizeConfig,
    RelayoutConfig,
    RmsNormQuantizeConfig,
    RopeQuantizeConfig,
    SiluMulQuantizeConfig,
)
from quantmux.config.layouts import Layout, round_up
from quantmux.config.operands import Operand
from quantmux.errors import BuildError
from quantmux.runtime.traced.library import constant

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig
    from quantmux.dispatch.selection import Selection
    from quantmux.runtime.binding import BoundProducer
    from quantmux.runtime.context import Context

for _kind in (
    Layout,
    Operand,
    QuantizeConfig,
    SiluMulQuantizeConfig,
    InverseRopeQuantizeConfig,
    RmsNormQuantizeConfig,
    RopeQuantizeConfig,
    RelayoutConfig,
):
    # dynamo may then take one as a constant, and guards on it; frozen, compared by their values
    register_constant(_kind)

SMALL: Final = ("input_scale", "input_global_scale")
"""Weights' tensors that producers are given, beside the prepared forms."""


ROW_MULTIPLE: Final = 8
"""Elements that rows of an output lie apart by, unless its kernels say otherwise (DESIGN §5)."""


@dataclass(frozen=True, slots=True)
class Form:
    """A prepared form of weights: which tensors, in which order.

    Attributes:
        layout: Name of the form.
        names: Names of its tensors.
        facts: Its small numbers.
    """

    layout: str
    names: tuple[str, ...]
    facts: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class LinearProgram:
    """A bound linear without its tensors.

    Attributes:
        key: Its name in graphs.
        selection: Pipelines per M range.
        context: Loads the kernels.
        layer: Name of the first layer that was bound so, for events.
        forms: Prepared forms in the order of the op's ``weights``.
        small: Which of `SMALL` follow them.
        row_stride: Elements between rows of y in graphs, whichever M range serves.
    """

    key: str
    selection: Selection
    context: Context
    layer: str | None
    forms: tuple[Form, ...]
    small: tuple[str, ...]

    row_stride: int


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ProducerProgram:
    """A bound producer or relayout.

    Attributes:
        key: Its name in graphs.
        config: Its config.
        bound: What calls go to.
        context: Loads its kernels.
    """

    key: str
    config: LayerConfig
    bound: BoundProducer
    context: Context


# held by their contexts (`Context.programs`): what a context knows goes with it
_linears: WeakValueDictionary[str, LinearProgram] = WeakValueDictionary()
_producers: WeakValueDictionary[str, ProducerProgram] = WeakValueDictionary()
_forms: dict[str, tuple[Operand, Layout]] = {}
_numbers: WeakKeyDictionary[Context, int] = WeakKeyDictionary()
_count = itertools.count(1)


def linear_program(key: str) -> LinearProgram:
    """Give the program of a linear.

    Raises:
        BuildError: No linear was bound so in this process.
    """
    found = _linears.get(key)
    if found is None:
        raise _unknown(key)
    return found


def producer_program(key: str) -> ProducerProgram:
    """Give the program of a producer.

    Raises:
        BuildError: No producer was bound so in this process.
    """
    found = _producers.get(key)
    if found is None:
        raise _unknown(key)
    return found


def keep_linear(
    selection: Selection,
    context: Context,
    layer: str | None,
    forms: tuple[Form, ...],
    small: tuple[str, ...],
) -> LinearProgram:
    """Give the program of a linear, new or known."""
    config: Any = selection.config
    parts = (selection.digest(), where(selection.device), *map(str, forms), *small)
    key = f"{config.scheme.name}_{config.n}x{config.k}_{_digest(*parts)}{_mark(context)}"
    stride = _row_stride(selection)
    program = LinearProgram(key, selection, context, layer, forms, small, stride)
    found = _linears.setdefault(key, program)
    context.programs[key] = found
    return found


def keep_producer(bound: BoundProducer, context: Context) -> ProducerProgram:
    """Give the program of a producer, new or known."""
    selection = bound.selection
    config: Any = selection.config
    digest = _digest(selection.digest(), where(selection.device))
    key = f"{config.operand.name}_{config.n}_{digest}{_mark(context)}"
    known = _producers.get(key)
    if known is None or known.bound is not bound:
        # bound anew, to the same kernels: graphs that hold the key go to what is bound now
        known = _producers[key] = ProducerProgram(key, config, bound, context)
        context.programs[key] = known
    return known


def _row_stride(selection: Selection) -> int:
    """Give what the kernels of all M ranges say, where they agree; else that of `ROW_MULTIPLE`."""
    config: Any = selection.config
    if config.contiguous_output:
        return int(config.n)
    said = {c.pipeline.main.capability.output_row_multiple for c in selection.ranges}
    strides = {round_up(config.n, multiple) for multiple in said}
    return strides.pop() if len(strides) == 1 else round_up(config.n, ROW_MULTIPLE)


@constant
def form_key(operand: Operand, layout: Layout) -> str:
    """Give the name of an operand in a layout."""
    digest = _digest(operand.model_dump_json(), layout.model_dump_json())
    key = f"{operand.name}_{layout.scales}_{digest}"
    _forms.setdefault(key, (operand, layout))
    return key


def form_of(key: str) -> tuple[Operand, Layout]:
    """Give the operand and the layout of a name.

    Raises:
        BuildError: No graph was traced with it in this process.
    """
    found = _forms.get(key)
    if found is None:
        raise _unknown(key)
    return found


def where(device: DeviceProfile) -> str:
    """Tell devices apart: what is bound belongs to one of them."""
    return f"{device.name} {device.torch_name if device.is_present else ''}"


def _mark(context: Context) -> str:
    """Tell contexts apart within this process; the process's own has no mark."""
    from quantmux.runtime.context import default_context

    if context is default_context():
        return ""
    number = _numbers.get(context)
    if number is None:
        number = _numbers[context] = next(_count)
    return f"_context{number}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:10]


def _unknown(key: str) -> BuildError:
    return BuildError(
        f'a graph asks for "{key}", and nothing is bound so in this process',
        facts=["graphs name what was bound while they were traced"],
        hint="trace the graph in this process: what torch.export saved cannot be run by another",
        code="unknown_key",
    )
