"""Who takes the step: bf16, every backend alone, and quantmux's selection."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import torch

from quantmux.bench.decoder.model import Decoder
from quantmux.bench.decoder.weights import ReferenceLinear
from quantmux.config.policy import Policy
from quantmux.errors import BuildError, NoKernelError
from quantmux.layers.linear import Linear

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from quantmux.bench.decoder.model import Form, MakeLinear
    from quantmux.bench.decoder.shapes import DecoderShape
    from quantmux.bench.decoder.weights import DrawnWeights
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.config.settings import Settings
    from quantmux.runtime.context import Context

BF16: Final = "bf16"
SELECTION: Final = "selection"
AGAIN: Final = "selection again"
"""The selection bound a second time, to weights of its own: the A/A row."""

SHARED: Final = "selection shared"
"""The selection with `quantmux.shared_input` before linears that are not merged."""

_STAND_IN: Final = "torch"
"""The backend that serves what another one lacks: it has a reference of everything."""


@dataclass(slots=True, eq=False)
class Variant:
    """One model that is timed.

    Attributes:
        name: ``bf16``, a backend's name, ``selection``.
        kind: ``peer`` for bf16, ``kernel``, ``aa``.
        model: Bound and warm.
        helped: Linears that a backend alone could not serve, with what helped out: ``torch's
            quantizers`` or ``torch``. By N×K.
        fusing: Policy of the fusion pass: a backend alone fuses by its own kernels. None leaves
            the pass what the user's policy leaves.
    """

    name: str
    kind: str
    model: Decoder
    helped: dict[tuple[int, int], str] = field(default_factory=dict)
    fusing: Policy | None = None

    def linears(self) -> dict[str, Linear]:
        """Give the quantized linears by their names in the decoder."""
        found = (m for m in self.model.modules() if isinstance(m, Linear))
        return {layer.layer or "": layer for layer in found}

    def served(self, ms: Sequence[int]) -> dict[str, list[str]]:
        """Give N×K → the pipelines that serve it at each M."""
        found: dict[str, list[str]] = {}
        for layer in self.linears().values():
            bound = layer.bind()
            name = f"{layer.out_features}x{layer.in_features}"
            found.setdefault(name, [str(bound.pipeline_for(m)) for m in ms])
        return found


@dataclass(frozen=True, slots=True)
class Builder:
    """Builds the variants of one decoder over one set of weights.

    Attributes:
        shape: The decoder.
        form: How it is put together.
        weights: Of all variants.
        device: A device that is here.
        context: Plugins and policy.
    """

    shape: DecoderShape
    form: Form
    weights: DrawnWeights
    device: DeviceProfile
    context: Context

    def model(self, make: MakeLinear) -> Decoder:
        """Give a decoder with other linears."""
        return Decoder(self.shape, make, self.form, self.weights.device).eval()

    def bf16(self) -> Variant:
        """Give what quantizing has to beat: nn.Linear on the dequantized weights."""
        return Variant(BF16, "peer", self.model(self.weights.bf16_linear))

    def reference(self) -> Decoder:
        """Give the decoder in the reference's numbers."""
        return self.model(partial(self._judged, quantized=True))

    def exact(self) -> Decoder:
        """Give the decoder that all are held against: activations are not quantized."""
        return self.model(partial(self._judged, quantized=False))

    def _judged(self, name: str, n: int, k: int, *, quantized: bool) -> nn.Module:
        del n, k
        return ReferenceLinear(self.weights, name, quantized=quantized)

    def selection(self, name: str = SELECTION) -> Variant:
        """Give the decoder whose kernels quantmux selects."""
        kind = "aa" if name == AGAIN else "kernel"
        return Variant(name, kind, self.model(self._maker(lambda _: None)))

    def shared(self) -> Variant:
        """Give the selection's decoder whose linears share one quantized x where they can."""
        form = replace(self.form, shares=True)
        return replace(self, form=form).selection(SHARED)

    def alone(self, backend: str, ms: Sequence[int]) -> Variant | None:
        """Give the decoder that has one backend, and torch's kernels for what that lacks.

        Args:
            backend: Its name.
            ms: Numbers of rows that must be served.

        Returns:
            None when it serves no linear, or a linear is served neither by it nor by torch.
        """
        helped: dict[tuple[int, int], str] = {}
        known: dict[LinearConfig, tuple[Policy, str]] = {}

        def policy(config: LinearConfig) -> Policy:
            if config not in known:
                known[config] = self.allowance(backend, config, ms)
            found, helper = known[config]
            if helper:
                helped[config.n, config.k] = helper
            return found

        for config in set(self.weights.configs.values()):
            if not self._serves(config, policy(config), ms):
                return None
        if all(helper == _STAND_IN for _, helper in known.values()) and backend != _STAND_IN:
            return None
        settings, kernels = self.settings, self.context.registry.kernels
        mine = {backend, _STAND_IN} if helped else {backend}
        others = (spec.id for spec in kernels if spec.backend not in mine)
        fusing = Policy(deny=(*settings.deny, *others))
        return Variant(backend, "kernel", self.model(self._maker(policy)), helped, fusing)

    def allowance(
        self, backend: str, config: LinearConfig, ms: Sequence[int]
    ) -> tuple[Policy, str]:
        """Give the policy that leaves a backend alone, and what must help it; "" for nothing.

        Allowed beside it is the least that serves every M: nothing, torch's producers, or torch.
        What the user's policy denies stays denied.
        """
        below = self.context.settings(config, self.device).deny
        kernels = self.context.registry.kernels
        away = [spec for spec in kernels if spec.backend != backend]
        helpers = {
            "": away,
            f"{_STAND_IN}'s quantizers": [
                spec for spec in away if spec.backend != _STAND_IN or spec.op == "linear"
            ],
        }
        for helper, denied in helpers.items():
            policy = Policy(deny=(*below, *(spec.id for spec in denied)))
            if self._serves(config, policy, ms):
                return policy, helper
        denied = [spec for spec in away if spec.backend != _STAND_IN]
        return Policy(deny=(*below, *(spec.id for spec in denied))), _STAND_IN

    def backends(self) -> tuple[str, ...]:
        """Give the backends that have kernels of a linear, in the order of the policy."""
        names = {spec.backend for spec in self.context.registry.kernels_for("linear")}
        rank = self.settings.order_rank
        return tuple(sorted(names, key=lambda name: (rank(name), name)))

    @property
    def settings(self) -> Settings:
        """The user's policy as it holds for the linears."""
        return self.context.settings(next(iter(self.weights.configs.values())), self.device)

    def denied(self, backend: str) -> str:
        """Give the patterns that deny all of a backend's products; "" where they leave one."""
        settings, kernels = self.settings, self.context.registry.kernels_for("linear")
        by = [settings.denied_by(spec.id) for spec in kernels if spec.backend == backend]
        return "" if None in by else ", ".join(dict.fromkeys(name for name in by if name))

    def _maker(self, policy: Callable[[LinearConfig], Policy | None]) -> MakeLinear:
        weights, context = self.weights, self.context

        def make(name: str, n: int, k: int) -> nn.Module:
            del n, k
            config = weights.configs[name]
            layer = Linear.from_tensors(
                config,
                weights.canonical(name),
                layer=name,
                policy=policy(config),
                context=context,
            )
            layer.bind(wait=True)
            return layer

        return make

    def _serves(self, config: LinearConfig, policy: Policy, ms: Sequence[int]) -> bool:
        try:
            selection = self.context.select(config, self.device, call_overrides=policy)
        except (NoKernelError, BuildError):
            return False
        return all(selection.pipeline_for(m) is not None for m in ms)


def warm(variant: Variant, ms: Sequence[int]) -> None:
    """Have the kernels of all its linears compile what calls with these rows need."""
    for layer in variant.linears().values():
        layer.warmup(ms)
    if variant.model.blocks and next(variant.model.parameters()).is_cuda:
        torch.cuda.synchronize()
