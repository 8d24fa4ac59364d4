"""The NVFP4 quantizer bound to its library: what happens in a call, and what of it happens once.

A call asks its arguments the cheapest questions that settle them, allocates what it makes and calls
``qm_quantize`` with addresses. Everything a config fixes is in a plan: one for each GPU that x was
on, made at the first call there, read by all threads and streams.
"""

from __future__ import annotations

import ctypes
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.errors import InputError
from quantmux.ops.checks import check_matrix, check_scalar, check_scales_given
from quantmux.ops.quantized import DTYPES
from quantmux_cutlass import abi, native
from quantmux_cutlass.quantize.nvfp4_abi import IN_DTYPES, LAYOUTS, Problem
from quantmux_cutlass.quantize.outputs import Outputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import QuantizeConfig
    from quantmux.errors import RunError
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux_cutlass.linear.choice import Choice

_PLAN_ALIGNMENT: Final = 64


class Plan:
    """A config on one device, as its library wrote it down.

    Attributes:
        address: Of the plan.
        parts: Numbers that a search for the largest magnitude stores at most.
        quantize: ``qm_quantize``.
        stream: Gives the device's current stream as a number.
    """

    __slots__ = ("_keep", "address", "parts", "quantize", "stream")

    def __init__(
        self, library: Any, config: QuantizeConfig, index: int, choice: Choice, *, pdl: bool
    ) -> None:
        """Have the library check and digest a config.

        Args:
            library: Of `quantmux_cutlass.quantize.units.NVFP4`.
            config: What is made.
            index: Ordinal of the GPU; -1 for the host.
            choice: Its options.
            pdl: Whether launches may overlap the kernel before.

        Raises:
            LaunchError: The library refuses the config.
        """
        sms = 1 if index < 0 else torch.cuda.get_device_properties(index).multi_processor_count
        layout = config.layout
        problem = Problem(
            bytes=ctypes.sizeof(Problem),
            abi=abi.VERSION,
            n=config.n,
            padded_n=layout.padded_n,
            rows=layout.padded_m_multiple,
            in_dtype=IN_DTYPES[config.in_dtype],
            layout=LAYOUTS[layout.scales],
            device=max(index, 0),
            sms=sms,
            pdl=int(pdl),
            option=choice.options,
        )
        memory = ctypes.create_string_buffer(library.plan_bytes + _PLAN_ALIGNMENT)
        self.address = -(-ctypes.addressof(memory) // _PLAN_ALIGNMENT) * _PLAN_ALIGNMENT
        self._keep = (memory, library)
        self.quantize: Callable[..., int] = library.handle.qm_quantize
        self.stream = native.raw_stream(index)
        status = library.plan(ctypes.addressof(problem), self.address)
        if status:
            facts = {"n": config.n, "layout": str(layout), "in_dtype": str(config.in_dtype)}
            raise native.failure(status, f"qm_plan of {library.unit.name}", {**facts})
        self.parts = int(library.handle.qm_search_parts(self.address))


class Bound:
    """A bound quantizer; `run` is what ``bind`` gives.

    Args:
        config: What is made.
        device: Where it was bound.
        open_library: Gives the library for a GPU's ordinal.
        choice: Options for the library, and whether launches may overlap the kernel before.
        pdl: Whether they may at all.
    """

    def __init__(
        self,
        config: QuantizeConfig,
        device: DeviceProfile,
        open_library: Callable[[int], Any],
        choice: Choice,
        *,
        pdl: bool = True,
    ) -> None:
        self._pdl = pdl and choice.pdl
        self._config = config
        self._device = device
        self._open = open_library
        self._choice = choice
        self._plans: dict[int, Plan] = {}
        self._lock = Lock()

    def plan(self, index: int) -> Plan:
        """Give the plan for a GPU (-1: the host); made once.

        Raises:
            InputError: It is not the kind of device that the kernel was bound for.
            BuildError: The library cannot be opened there.
        """
        if (index >= 0) is not self._device.is_cuda:
            found, want = ("cuda", "cpu") if index >= 0 else ("cpu", "cuda")
            raise InputError(
                f"x is on {found}, the kernel was bound for {want}",
                hint="move x, or select for the device where x is",
                code="device",
            )
        with self._lock:
            made = self._plans.get(index)
            if made is None:
                library = self._open(index)
                made = Plan(library, self._config, index, self._choice, pdl=self._pdl)
                self._plans[index] = made
            return made

    def function(self) -> Callable[..., QuantizedTensor]:
        """Give ``fn(x, *, scale=None, global_scale=None, out=None)``."""
        config, operand = self._config, self._config.operand
        outputs = Outputs(operand, config.layout, config.n)
        width, dtype = config.n, DTYPES[config.in_dtype]
        is_static = operand.global_scale == "static"
        plans, new_plan, failed = self._plans, self.plan, self._failed

        def run(
            x: torch.Tensor,
            *,
            scale: torch.Tensor | None = None,
            global_scale: torch.Tensor | None = None,
            out: QuantizedTensor | None = None,
        ) -> QuantizedTensor:
            index, home = x.get_device(), x.device
            plan = plans.get(index) or new_plan(index)
            if x.dim() != 2 or x.shape[1] != width or x.dtype is not dtype:
                check_matrix(x, width, config.in_dtype)
            given = global_scale
            if scale is not None or (is_static and given is None):
                check_scales_given(operand, scale, given)
            if given is not None and (
                given.shape != (1,) or given.dtype is not torch.float32 or given.device != home
            ):
                given = check_scalar(given, "global_scale", home)
            m = x.shape[0]
            made = outputs.new(m, home) if out is None else outputs.checked(out, m, home)
            g = made.global_scale
            if g is None or m == 0:
                _without_rows(g, given)
                return made
            if given is None:
                partial = torch.empty(plan.parts, dtype=torch.int32, device=home)
                given_at, partial_at = None, partial.data_ptr()
            else:
                given_at, partial_at = given.data_ptr(), None
            row, column = x.stride()
            status = plan.quantize(
                plan.address,
                x.data_ptr(),
                row,
                column,
                made.data.data_ptr(),
                made.scales.data_ptr(),
                given_at,
                g.data_ptr(),
                partial_at,
                m,
                plan.stream(index),
            )
            if status:
                raise failed(status, x)
            return made

        return run

    def _failed(self, status: int, x: torch.Tensor) -> RunError | RuntimeError:
        facts = {"x": f"{list(x.shape)}, strides {list(x.stride())}", "on": str(x.device)}
        return native.failure(status, "qm_quantize", {**facts})


def _without_rows(g: torch.Tensor | None, given: torch.Tensor | None) -> None:
    """Give an empty matrix its global scale: the given one, else 1."""
    if g is None:
        return
    if given is None:
        g.fill_(1.0)
    else:
        g.copy_(given)
