"""A layer and compiled libraries: what of a call is settled before it, and what is checked in full.

Plans hold what cannot change from call to call: the weights, their scales and bias, widths and
options. Those for the layout that the join asks of a producer are made when the layer is bound:
what a library refuses is found out there, and the driver loads every function that a call may
launch before some call is captured. Another layout's are made at its first call. All threads share
them.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.config.layouts import round_up
from quantmux.dispatch.join import required_input
from quantmux.errors import InputError, LayoutError, ShapeError
from quantmux.ops.quantized import DATA_DTYPES, DTYPES, QuantizedTensor
from quantmux_cutlass import abi, native
from quantmux_cutlass.linear.outputs import checked_output
from quantmux_cutlass.linear.padding import ALIGNMENT, aligned

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import Layout, LinearConfig
    from quantmux.registry.protocol import PreparedWeights
    from quantmux_cutlass.build.library import Library
    from quantmux_cutlass.linear.choice import Choice
    from quantmux_cutlass.linear.consumer import CutlassLinear
    from quantmux_cutlass.units import Unit

_READABLE: Final = {"nvfp4": ("swizzled_128x4",), "group": tuple(abi.COLUMNS)}
"""Scale layouts of x that libraries are told of or take for granted; other kinds have one only."""

_USUAL: Final = {"tensor": "scalar", "row": "row_major", "group": "col_major_aligned4"}
_MOST: Final = 4096
"""Plans, or layouts of x, that a layer keeps before it begins anew; far more than are in use."""


@dataclass(eq=False, slots=True)
class Reads:
    """One layout of x that was seen, and the plans that read it.

    Attributes:
        layout: The layout.
        width: Storage elements between rows of x.
        plans: By M.
        made: The same by choice, of which many M share one.
    """

    layout: Layout
    width: int
    plans: dict[int, native.Plan] = field(default_factory=dict)
    made: dict[Choice, native.Plan] = field(default_factory=dict)


class Layer:
    """What of a bound layer does not change from call to call."""

    def __init__(
        self,
        kernel: CutlassLinear,
        config: LinearConfig,
        prepared: PreparedWeights,
        device: DeviceProfile,
        libraries: Mapping[Unit, Library] | None = None,
    ) -> None:
        """Open the libraries and hold the weights.

        Args:
            kernel: Whose layer it is.
            config: Shapes, scheme and dtypes.
            prepared: The weights.
            device: Where they are.
            libraries: Those already open, for who opens them; None opens them.

        Raises:
            BuildError: A library cannot be opened.
            LayoutError: The weights cannot be read as they lie.
            InputError: The scheme has no activation operand.
        """
        activation = config.scheme.activation
        if activation is None:
            raise InputError(
                f"scheme {config.scheme.name} does not quantize its input", code="scheme"
            )
        self.kernel, self.config, self.device = kernel, config, device
        self.activation = activation
        self.is_nvfp4 = config.scheme.weight.is_nvfp4
        self.n, self.k = config.n, config.k
        self.row = round_up(config.n, kernel.row_multiple)
        self.dtype = DTYPES[config.out_dtype]
        self.element = DATA_DTYPES[activation.element]
        self.seen: dict[int, Reads] = {}
        self._lock = Lock()
        self._read_weights(prepared)
        self.home = self.data.device
        self.index = self.home.index or 0 if self.home.type == "cuda" else -1
        self.choices = kernel.choices(config, device)
        if libraries is None:
            units = dict.fromkeys(c.unit for c in self.choices.values())
            libraries = native.opened(tuple(units), device)
        self.libraries = libraries
        self._sms = device.sm_count or _multiprocessors(self.home)

    def make_plans(self) -> None:
        """Make the plans of all choices for an x as the join has it made.

        Raises:
            LaunchError: A library refuses what it is chosen for.
        """
        usual = _USUAL.get(self.activation.block.kind, "row_major")
        scales = "swizzled_128x4" if self.is_nvfp4 else usual
        base = 2 * ALIGNMENT if self.is_nvfp4 else ALIGNMENT
        made = required_input(self.activation, self.k, scales, base, 1, self.config.in_dtype)
        if made is None:
            return
        reads = self._known(made.layout)
        for choice in dict.fromkeys(self.choices.values()):
            reads.made[choice] = self._new_plan(made.layout, choice)

    def plan(self, reads: Reads, m: int) -> native.Plan:
        """Give the plan for M rows of x in a layout; made once for a choice."""
        with self._lock:
            choice = self._choice(m)
            found = reads.made.get(choice)
            if found is None:
                found = reads.made[choice] = self._new_plan(reads.layout, choice)
            if len(reads.plans) >= _MOST:
                reads.plans.clear()
            reads.plans[m] = found
            return found

    def accepted(self, q: Any) -> Reads:
        """Check all of x; give how it is read.

        Raises:
            InputError: It is no quantized matrix, is on another device, or a scale is missing.
            ShapeError: Its shape or width is another.
            DtypeError: A dtype is another.
            LayoutError: It is of another operand, or lies otherwise.
        """
        if not isinstance(q, QuantizedTensor):
            raise InputError(
                f"x needs to be a QuantizedTensor, found {type(q).__name__}",
                hint="quantize it with the producer of the selection, or call the layer",
            )
        for name, tensor in (("data", q.data), ("scales", q.scales)):
            if not isinstance(tensor, torch.Tensor):
                raise InputError(
                    f"{name} of x needs to be a tensor, found {type(tensor).__name__}",
                    hint=f"a quantized x has {name}; see quantmux.ops.quantized.QuantizedTensor",
                )
        if q.data.device != self.home:
            raise InputError(
                f"x is on {q.data.device}, the weights are on {self.home}", code="device"
            )
        if len(q.logical_shape) != 2 or q.n != self.k:
            raise ShapeError(
                "x has the wrong logical shape",
                facts={"need": f"[M, {self.k}]", "found": list(q.logical_shape)},
            )
        if q.operand.element != self.activation.element or q.operand.block != self.activation.block:
            raise LayoutError(
                "x is quantized to another operand than the layer reads",
                facts={"need": self.activation.name, "found": q.operand.name},
            )
        readable = _READABLE.get("nvfp4" if self.is_nvfp4 else self.activation.block.kind)
        if readable is not None and q.layout.scales not in readable:
            raise LayoutError(
                "scales of x lie in a layout that the kernel does not read",
                facts={"need": " or ".join(readable), "found": q.layout.scales},
                hint="quantize x as the layer's input_layout() says",
            )
        q.check()
        if self.activation.block.kind == "group" and q.layout.padded_m(q.m) != q.m:
            raise LayoutError(
                "scales of padded rows are not read",
                facts={"need": "padded_m_multiple=1", "found": str(q.layout)},
                hint="let the producer write the layout that the selection names",
            )
        _require_aligned(q)
        found = self.seen.get(id(q.layout))
        return self._known(q.layout) if found is None else found

    def output(self, out: torch.Tensor, m: int) -> int:
        """Give the elements between rows of a caller's output, which is checked."""
        multiple = self.kernel.row_multiple
        return checked_output(out, m, self.n, self.dtype, self.home, multiple)

    def failed(self, status: int, q: Any, m: int, out: torch.Tensor | None) -> Exception:
        """Give the exception for a status of ``qm_run``; the caller's mistakes come first."""
        try:
            self.accepted(q)
            if out is not None:
                self.output(out, m)
        except InputError as error:
            return error
        facts: dict[str, object] = {"layer": str(self.config), "M": m}
        return native.failure(status, f"qm_run of {self._choice(m).unit.name}", facts)

    def _read_weights(self, prepared: PreparedWeights) -> None:
        data = prepared.tensors["data"]
        if data.stride(1) != 1 or data.stride(0) % ALIGNMENT:
            raise LayoutError(
                "rows of the weights cannot be read",
                facts={
                    "need": f"strides [a multiple of {ALIGNMENT}, 1]",
                    "found": list(data.stride()),
                },
                hint="prepare them with this kernel, or make them contiguous before",
            )
        self.data = data if data.data_ptr() % ALIGNMENT == 0 else aligned(data)
        self.scales = prepared.tensors["scales"].contiguous()
        bias = prepared.tensors.get("bias") if self.config.bias else None
        self.bias = None if bias is None else bias.to(torch.float32).contiguous()
        self.alpha = prepared.tensors.get("global_scale") if self.is_nvfp4 else None

    def _known(self, layout: Layout) -> Reads:
        """Give how a layout is read; equal layouts share their plans."""
        with self._lock:
            same = next((r for r in self.seen.values() if r.layout == layout), None)
            width = layout.padded_n // (2 if self.is_nvfp4 else 1)
            found = Reads(layout, width)
            if same is not None:
                found.plans, found.made = same.plans, same.made
            if len(self.seen) >= _MOST:
                self.seen.clear()
            self.seen[id(layout)] = found
            return found

    def _new_plan(self, layout: Layout, choice: Choice) -> native.Plan:
        weight, activation = self.config.scheme.weight.block.kind, self.activation.block.kind
        problem = abi.Problem(
            bytes=ctypes.sizeof(abi.Problem),
            abi=abi.VERSION,
            w=self.data.data_ptr(),
            w_scales=self.scales.data_ptr(),
            bias=0 if self.bias is None else self.bias.data_ptr(),
            alpha=0 if self.alpha is None else self.alpha.data_ptr(),
            w_row=self.data.stride(0) * (2 if self.is_nvfp4 else 1),
            w_scales_row=self.scales.stride(0),
            x_row=layout.padded_n,
            y_row=self.row,
            n=self.n,
            k=self.k,
            w_by_row=weight != "tensor",
            x_by_row=activation != "tensor",
            x_columns=abi.COLUMNS.get(layout.scales, 0),
            out=abi.OUT[self.config.out_dtype],
            device=max(self.index, 0),
            sms=self._sms,
            pdl=self.kernel.pdl and choice.pdl,
        )
        for place, value in enumerate(choice.options):
            problem.option[place] = value
        keep = (self.data, self.scales, self.bias, self.alpha)
        return native.Plan(self.libraries[choice.unit], problem, keep)

    def _choice(self, m: int) -> Choice:
        """Give what serves M; a library that was not opened at bind is not opened in a call."""
        found = self.kernel.choice(self.config, self.device, m)
        if found.unit in self.libraries:
            return found
        nearest = min(self.choices, key=lambda sample: (sample < m, abs(sample - m)))
        return self.choices[nearest]


def _require_aligned(q: QuantizedTensor) -> None:
    """Check what every library checks, to name the tensor.

    Raises:
        LayoutError: Data begin at no multiple of 16 bytes, or rows are none.
    """
    if not q.m:
        return
    off = q.data.data_ptr() % ALIGNMENT
    row = q.data.stride(0) * q.data.element_size()
    if off or (q.m > 1 and row % ALIGNMENT):
        raise LayoutError(
            f"rows of x need to begin at multiples of {ALIGNMENT} bytes",
            facts={"found": f"the first {off} bytes after one, rows {row} bytes apart"},
            hint="let the producer write it: its out= is the tensor that is read",
        )


def _multiprocessors(home: torch.device) -> int:
    if home.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(home).multi_processor_count)
