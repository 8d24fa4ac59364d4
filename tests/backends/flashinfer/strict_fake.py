"""A GPU that is not here, under the real FlashInfer: its Python runs, its compiled code is ours.

Everything of the installed package that is Python runs as it is: signatures, decorators, checks,
runners, its tuner in its resting state, its table of scratch buffers. Replaced is what needs a
device: the questions after the compute capability, and the compiled modules, for which functions on
the CPU stand in (`strict_fake_fp8`, `strict_fake_fp4`, `strict_fake_producers`). Those take
pointers as the compiled ones do: they look at no strides and trust no shape that the real code does
not look at, so what the library would misread is misread here too.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from importlib import import_module
from math import prod
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.capability.arch import Arch
from quantmux.capability.device import DeviceProfile
from quantmux_flashinfer.jit import demand
from quantmux_flashinfer.library import functions, guards, loading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pytest

    from quantmux_flashinfer.entries import Entry

ARCHS: Final = (89, 90, 100, 103, 110, 120, 121)
"""Compute capabilities that are pretended."""


@dataclass
class Fake:
    """The machine that is pretended, and what happened on it.

    Attributes:
        sm: Compute capability as major · 10 + minor.
        modules: Names of the compiled modules that the library loaded.
        asked: Names of those that were asked for before.
        launches: Names of the compiled functions, in the order in which they were called.
        keeping: What stand-ins remember between calls.
    """

    sm: int
    modules: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)
    launches: list[str] = field(default_factory=list)
    keeping: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> DeviceProfile:
        """The device, said to be here."""
        arch = Arch.parse(str(self.sm))
        return DeviceProfile(
            name=f"sm{self.sm}", title=f"sm {self.sm}", arch=arch, is_present=True, index=0
        )

    def launched(self, name: str) -> None:
        """Write a launch down."""
        self.launches.append(name)

    def load_cubins(self, name: str, op: Any) -> Any:
        """Give what stands in for a module around machine code that is downloaded."""
        name += "_sm107" if self.sm == 107 else ""
        self.loaded(name)
        return op

    def loaded(self, name: str) -> None:
        """Write down that a module is loaded; one that nobody asked for is a mistake."""
        self.modules.add(name)
        if name not in self.asked:
            raise AssertionError(
                f"the library loads {name}, and the entry does not say so: {sorted(self.asked)}"
            )

    def load(self, spec: Any) -> Any:
        """Give what stands in for a compiled module."""
        name = spec.name
        self.loaded(name)
        found = {key: made(self) for key, made in compiled().items() if name in key}
        if not found:
            raise AssertionError(f"nothing stands in for the compiled module {name}")
        merged: dict[str, Any] = {}
        for parts in found.values():
            merged.update(vars(parts))
        return SimpleNamespace(**merged)


def compiled() -> dict[tuple[str, ...], Callable[[Fake], Any]]:
    """Give what stands in for which modules."""
    from tests.backends.flashinfer import strict_fake_fp4, strict_fake_fp8, strict_fake_producers

    parts = (strict_fake_fp8, strict_fake_fp4, strict_fake_producers)
    return {names: made for part in parts for names, made in part.COMPILED.items()}


def replaced() -> dict[str, Callable[[Fake], Any]]:
    """Give what stands in for functions of the library that need other packages or cubins."""
    from tests.backends.flashinfer import strict_fake_fp4, strict_fake_fp8, strict_fake_producers

    parts = (strict_fake_fp8, strict_fake_fp4, strict_fake_producers)
    return {path: made for part in parts for path, made in part.REPLACED.items()}


def pretend(sm: int, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Put a GPU of a compute capability under the library, until the test ends.

    Args:
        sm: major · 10 + minor.
        monkeypatch: Of the test.
    """
    loading.flashinfer()
    places = [(*path.partition(":")[::2], make) for path, make in replaced().items()]
    for where, _, _ in places:
        import_module(where)  # as they are without other packages, before any of them is pretended
    forget_cached()
    fake = Fake(sm)
    pair = (sm // 10, sm % 10)
    _patch_everywhere(
        monkeypatch,
        {
            "get_compute_capability": lambda _device: pair,
            "get_device_sm_count": lambda _device: 132,
            "device_support_pdl": lambda _device: sm >= 90,
            "get_cuda_version": _cuda_version,
        },
    )
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    # a real GPU beside the pretended one would be warmed up, with the stand-ins
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("_cuda_getCurrentRawStream", "_cuda_isCurrentStreamCapturing"):
        monkeypatch.setattr(torch._C, name, lambda *_: 0, raising=False)
    core = import_module("flashinfer.jit.core")
    suffix = "f" if sm == 120 else "a"
    archs = {(pair[0], f"{pair[1]}{suffix if sm >= 90 else ''}")}
    monkeypatch.setattr(core.current_compilation_context, "TARGET_CUDA_ARCHS", archs)
    for cls in _classes(core.JitSpec):
        if "build_and_load" in vars(cls):
            monkeypatch.setattr(cls, "build_and_load", lambda spec: fake.load(spec))  # noqa: PLW0108
    for where, name, make in places:
        monkeypatch.setattr(import_module(where), name, make(fake), raising=False)
    _patch_ours(monkeypatch, fake)
    return fake


def forget_cached() -> None:
    """Empty every cache of the library: what it holds is of another device."""
    for module in _modules():
        for value in list(vars(module).values()):
            clear = getattr(value, "cache_clear", None)
            if callable(clear) and str(getattr(value, "__module__", "")).startswith("flashinfer"):
                clear()


def _patch_ours(monkeypatch: pytest.MonkeyPatch, fake: Fake) -> None:
    make = functions._make

    def on_the_fake(entry: Entry, _device: DeviceProfile) -> Callable[..., Any]:
        return make(entry, fake.device)

    def ensure(names: Iterable[str], _device: DeviceProfile) -> None:
        fake.asked |= set(names)

    monkeypatch.setattr(functions, "_make", on_the_fake)
    monkeypatch.setattr(functions, "_ready", {})
    monkeypatch.setattr(functions, "_require", lambda *_: None)
    monkeypatch.setattr(guards, "_rooms", {})
    monkeypatch.setattr(demand, "ensure", ensure)


def _patch_everywhere(monkeypatch: pytest.MonkeyPatch, names: dict[str, Any]) -> None:
    utils = import_module("flashinfer.utils")
    theirs = {name: getattr(utils, name, None) for name in names}
    theirs["get_cuda_version"] = import_module("flashinfer.jit.cpp_ext").get_cuda_version
    for module in _modules():
        for name, ours in names.items():
            if vars(module).get(name) is theirs[name]:
                monkeypatch.setattr(module, name, ours)


def _modules() -> list[Any]:
    return [m for n, m in list(sys.modules.items()) if n.partition(".")[0] == "flashinfer" and m]


def _classes(cls: type) -> list[type]:
    return [cls, *(below for child in cls.__subclasses__() for below in _classes(child))]


def _cuda_version() -> Any:
    from packaging.version import Version

    return Version("13.0")


def at(tensor: torch.Tensor, *shape: int) -> torch.Tensor:
    """Give what a kernel finds at a tensor's address: rows one behind the other, as a view.

    Args:
        tensor: Only its address and its type count.
        shape: What the kernel takes it for.

    Raises:
        RuntimeError: It would read, or write, beyond the memory.
    """
    strides = [prod(shape[place + 1 :]) for place in range(len(shape))]
    room = tensor.untyped_storage().nbytes() // tensor.element_size() - tensor.storage_offset()
    if prod(shape) > room:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    return tensor.as_strided(shape, strides, tensor.storage_offset())


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Give a [..., M, K] by b [..., N, K] transposed in fp32, whatever the caller has set."""
    with torch.autocast("cpu", enabled=False):
        return a.float() @ b.float().transpose(-1, -2)


def must(condition: object, text: str) -> None:
    """Refuse as a check of the compiled code does.

    Raises:
        RuntimeError: The condition does not hold.
    """
    if not condition:
        raise RuntimeError(f"Check failed: {text}")


def on_16_bytes(*tensors: torch.Tensor) -> bool:
    """Tell whether addresses are those that vector loads and TMA can take."""
    return all(t.data_ptr() % 16 == 0 for t in tensors)


def runner_of(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Give a factory of runners, as the library's tuner wants them, that only run."""
    from flashinfer.autotuner import TunableRunner

    class Runner(TunableRunner):  # type: ignore[misc]
        def get_valid_tactics(self, inputs: Any, profile: Any) -> list[int]:
            raise AssertionError(f"the tuner was started: {inputs} {profile}")

        def forward(self, inputs: Any, tactic: Any = -1, **kwargs: Any) -> Any:
            assert tactic == -1
            return forward(inputs, **kwargs)

    return lambda *_args, **_kwargs: Runner()
