"""Backends whose kernels do nothing, so that a clock sees only what stands around them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from quantmux import (
    BackendInfo,
    Capability,
    KernelSpec,
    OperandOffer,
    PreparedWeights,
    QuantizedTensor,
    SchemeOffer,
    hookimpl,
    scheme,
)
from quantmux.config.layouts import layouts_for
from quantmux.config.operands import OPERANDS
from quantmux.config.policy import Policy
from quantmux.config.schemes import SCHEMES
from quantmux.registry.manager import Registry


def _plugin(name: str, kernels: list[KernelSpec]) -> Any:
    @hookimpl
    def quantmux_backend() -> BackendInfo:
        return BackendInfo(name=name, version="0")

    @hookimpl
    def quantmux_kernels() -> list[KernelSpec]:
        return kernels

    return SimpleNamespace(quantmux_backend=quantmux_backend, quantmux_kernels=quantmux_kernels)


def many_kernels(count: int) -> Registry:
    """Give a registry of ``count`` kernels over four backends: seven consumers, three producers."""
    names, operands = list(SCHEMES), list(OPERANDS.values())
    backends = ("cutlass", "flashinfer", "triton", "torch")
    found: dict[str, list[KernelSpec]] = {name: [] for name in backends}
    for i in range(count):
        backend = backends[i % 4]
        if i % 10 < 7:
            wanted = SCHEMES[names[i % len(names)]]
            activation = None
            if wanted.activation is not None:
                activation = OperandOffer.of(wanted.activation, layouts_for(wanted.activation))
            pair = SchemeOffer(
                weight=OperandOffer.of(wanted.weight, ("row_major",)), activation=activation
            )
            capability = Capability(
                arch=("90a", "100f") if i % 3 else "any",
                schemes=(pair,),
                align_n=(1, 16, 128)[i % 3],
                m_max=(None, 64, 128)[i % 3],
                weight_layout=f"{backend}:{i % 5}",
            )
            found[backend].append(KernelSpec(f"{backend}/gemm_{i}", "linear", capability, "a:b"))
        else:
            made = operands[i % len(operands)]
            capability = Capability(
                arch="any",
                produces=(OperandOffer.of(made, layouts_for(made)),),
                takes_padded_n=True,
                takes_padded_m=True,
            )
            found[backend].append(KernelSpec(f"{backend}/quant_{i}", "quantize", capability, "a:b"))
    return Registry.of({name: _plugin(name, kernels) for name, kernels in found.items()})


def _unbound(*_: Any, **__: Any) -> Any:
    raise RuntimeError("bind comes first")


class IdleProducer:
    """Gives one quantized tensor, made at the first call."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self.kept: QuantizedTensor | None = None
        self.run: Callable[..., Any] = _unbound

    def bind(self, config: Any, device: Any) -> Callable[..., QuantizedTensor]:  # noqa: ARG002
        """Give a function that returns what it gave before."""
        from quantmux.ops.quantize.reference import quantize

        def run(x: Any, *, scale: Any = None, global_scale: Any = None, out: Any = None) -> Any:
            if self.kept is None:
                self.kept = quantize(x, config, scale=scale, global_scale=global_scale, out=out)
            return self.kept

        self.run = run
        return run

    def warmup(self, config: Any, ms: Any) -> None:
        """Have nothing to warm up."""


class IdleConsumer:
    """Gives one output, made at the first call."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self.run: Callable[..., Any] = _unbound

    def prepare(self, weights: Any, config: Any, device: Any) -> PreparedWeights:  # noqa: ARG002
        """Share the weights as they are."""
        return PreparedWeights(weights.named(), "idle:same", config.n, config.k, lambda: weights)

    def bind(self, config: Any, prepared: Any, device: Any) -> Callable[..., Any]:  # noqa: ARG002
        """Give a function that returns what it gave before."""
        import torch

        y = torch.zeros(4, config.n, dtype=torch.bfloat16)

        def run(x: Any, *, out: Any = None) -> Any:  # noqa: ARG001
            return y

        self.run = run
        return run

    def warmup(self, config: Any, ms: Any) -> None:
        """Have nothing to warm up."""


PRODUCER = IdleProducer()
CONSUMER = IdleConsumer()


def one_pipeline() -> tuple[Registry, IdleProducer, IdleConsumer]:
    """Give a registry of one producer and one consumer, and the two; ``run`` is what bind gave."""
    wanted = scheme("fp8_channel_token")
    if wanted.activation is None:
        raise TypeError("the scheme must quantize activations")
    offer = OperandOffer.of(wanted.activation, ("row_major",))
    pair = SchemeOffer(weight=OperandOffer.of(wanted.weight, ("row_major",)), activation=offer)
    kernels = [
        KernelSpec(
            "idle/quant",
            "quantize",
            Capability(arch="any", produces=(offer,), launches=0),
            "idle_backend:PRODUCER",
        ),
        KernelSpec(
            "idle/gemm",
            "linear",
            Capability(arch="any", schemes=(pair,), launches=0, weight_layout="idle:same"),
            "idle_backend:CONSUMER",
        ),
    ]

    # kernels that do nothing disagree with every reference: they are not to be found out
    policy = Policy(self_check="never")
    return Registry.of({"idle": _plugin("idle", kernels)}, policy), PRODUCER, CONSUMER
