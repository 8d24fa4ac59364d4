"""Kernels of the torch backend by name, bound as a pipeline would bind them."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from quantmux.capability.device import DeviceProfile
from quantmux.config import LinearConfig
from quantmux.config.settings import Settings
from quantmux.dispatch import Inventory
from quantmux.dispatch.eligible import Verdict, judge
from quantmux.dispatch.join import input_of
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.quantized import LinearWeights, QuantizedTensor
from quantmux.registry.kernel_spec import KernelSpec
from quantmux_torch.plugin import quantmux_kernels


@dataclass(frozen=True)
class Kernel:
    """A kernel beside its spec."""

    spec: KernelSpec
    loaded: Any

    def verdict(self, config: LinearConfig, device: DeviceProfile) -> Verdict:
        """What selection says of it."""
        return judge(self.spec, config, device, Settings(), Inventory((self.spec,)))

    def x_of(
        self,
        x: torch.Tensor,
        weights: LinearWeights,
        config: LinearConfig,
        device: DeviceProfile,
    ) -> torch.Tensor | QuantizedTensor:
        """What the pipeline hands it: x in the layout that it reads first, or x itself."""
        offer = self.verdict(config, device).offer
        activation = config.scheme.activation
        if activation is None or offer is None or offer.activation is None:
            return x
        capability = self.spec.capability
        asked = input_of(capability, offer.activation, activation, config.k, config.in_dtype)[0]
        return quantize(
            x,
            asked,
            scale=None if activation.dynamic else weights.input_scale,
            global_scale=(
                weights.input_global_scale if activation.global_scale == "static" else None
            ),
        )


@pytest.fixture(autouse=True)
def one_thread():
    """These matrices are small: threads of several workers would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def specs() -> dict[str, KernelSpec]:
    return {spec.id: spec for spec in quantmux_kernels()}


@pytest.fixture(scope="session")
def kernel(specs) -> Callable[[str], Kernel]:
    def get(name: str) -> Kernel:
        spec = specs[f"torch/{name}"]
        module, _, attribute = spec.load.partition(":")
        return Kernel(spec, getattr(importlib.import_module(module), attribute))

    return get


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    raw = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    raw = raw.set_(tensor.untyped_storage())
    return raw[tensor.storage_offset() * tensor.element_size() :].clone()


@pytest.fixture(scope="session")
def bits() -> Callable[[torch.Tensor], torch.Tensor]:
    """Bytes of a tensor's storage from its first element on, padding and gaps included."""
    return _bits


@pytest.fixture(scope="session")
def dirty() -> Callable[[QuantizedTensor], QuantizedTensor]:
    """The same shape and layout on fresh memory that holds 0xFF everywhere."""

    def soiled(tensor: torch.Tensor) -> torch.Tensor:
        storage = torch.full_like(_bits(tensor), 0xFF)
        return storage.view(tensor.dtype).as_strided(tensor.shape, tensor.stride())

    def make(q: QuantizedTensor) -> QuantizedTensor:
        return replace(
            q,
            data=soiled(q.data),
            scales=soiled(q.scales),
            global_scale=None if q.global_scale is None else soiled(q.global_scale),
        )

    return make
