"""DeepGEMM's FP8 block product, called directly."""

from __future__ import annotations

import ctypes
from importlib import import_module, util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.bench.peers.base import BoundPeer, linear_peer
from quantmux.config.layers import QuantizeConfig
from quantmux.ops.quantize.reference import quantize
from quantmux.registry.guard import describe, guarded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.bench.materials import Materials
    from quantmux.bench.rows import BenchCase
    from quantmux.bench.traffic import Part
    from quantmux.capability.device import DeviceProfile
    from quantmux.ops.spec import Call

_TOLERANCE: Final = 1e-2
_LIBRARIES: Final = ("libcudart.so.13", "libnvrtc.so.13", "libcublasLt.so.13", "libcublas.so.13")


class DeepGemm:
    """``deep_gemm.fp8_gemm_nt`` on scales that lie as it wants them.

    Args:
        pdl: Launch with programmatic dependence, so that a product's prologue overlaps the end of
            the one before it; the library's own default is not to.
    """

    part: Part = "gemm"

    def __init__(self, *, pdl: bool = False) -> None:
        self._pdl = pdl
        self.name = "DeepGEMM PDL" if pdl else "DeepGEMM"

    def unavailable(self, device: DeviceProfile) -> str:
        """Give why it cannot run here."""
        if device.arch.sm != 90:
            return f"its kernels for {device.arch} want other scales"
        if util.find_spec("deep_gemm") is None:
            return "deep_gemm is not installed"
        found = guarded(_library)
        if found.error is not None:
            return describe(found.error)
        if self._pdl and guarded(lambda: _with_pdl(found.value)).error is not None:
            return "this deep_gemm has no switch of PDL"
        return ""

    def refuses(self, case: BenchCase) -> str:
        """Give why it does not do this case."""
        config = case.config
        if config.op != "linear" or not config.scheme.name.startswith("fp8_block128"):
            return "it does fp8_block128"
        if config.bias or config.out_dtype != "bf16" or config.n % 64 or config.k % 128:
            return "it wants no bias, bf16, N of 64 and K of 128"
        return ""

    def bind(self, case: BenchCase, materials: Materials, inputs: Sequence[Call]) -> BoundPeer:
        """Give its calls, on inputs quantized by the reference."""
        config = case.config
        if config.op != "linear" or config.scheme.activation is None:
            raise TypeError(config.op)
        product = _with_pdl(_library()) if self._pdl else _library().fp8_gemm_nt
        producer = QuantizeConfig(
            operand=config.scheme.activation,
            n=config.k,
            layout="col_major_aligned4",
            in_dtype=config.in_dtype,
        )
        calls: list[Callable[[], torch.Tensor]] = []
        for i, call in enumerate(inputs):
            weights = materials.weights_copy(i)
            q = quantize(call.args[0], producer)
            a, b = (q.data, q.scales), (weights.data, weights.scales)

            def run(a: Any = a, b: Any = b) -> torch.Tensor:
                y = torch.empty((a[0].shape[0], config.n), dtype=torch.bfloat16, device="cuda")
                product(a, b, y)
                return y

            calls.append(run)
        return linear_peer(calls, config, materials, inputs, _TOLERANCE)


def _with_pdl(library: Any) -> Callable[..., None]:
    switch = library._C.set_pdl  # noqa: SLF001 - it has no public name

    def product(a: Any, b: Any, y: torch.Tensor) -> None:
        # the switch is read on the host as the launch is made; others must not find it on
        switch(True)
        try:
            library.fp8_gemm_nt(a, b, y)
        finally:
            switch(False)

    return product


def _library() -> Any:
    # its binary names CUDA's libraries without a path; a torch from PyPI keeps them where the
    # dynamic linker does not look, and a library that is loaded already is found by its name
    spec = util.find_spec("nvidia")
    places = [Path(p) for p in (spec.submodule_search_locations if spec else None) or ()]
    for name in _LIBRARIES:
        file = next((f for place in places for f in place.glob(f"*/lib/{name}")), None)
        if file is not None:
            ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)
    return import_module("deep_gemm")
