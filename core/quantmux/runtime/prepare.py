"""WeightStore: the canonical weights of one linear and their prepared forms, each made once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from quantmux.errors import BuildError, ConfigError
from quantmux.registry.protocol import PreparedWeights

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    import torch

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.config.policy import KeepCanonical
    from quantmux.ops.quantized import LinearWeights
    from quantmux.registry.protocol import Consumer

# Too small to be worth freeing; a kernel's restore() need not carry them.
_SMALL = ("global_scale", "bias", "input_scale", "input_global_scale")


class WeightStore:
    """Canonical weights and prepared forms, one per ``weight_layout``, shared by all M ranges.

    Args:
        weights: Canonical weights; never changed. None: there are ``forms`` alone.
        config: The linear.
        device: Where the prepared forms lie.
        keep: Where the canonical weights stay after a preparation that cannot be undone.
        forms: Prepared forms that are there already, by name.
        small: The static scales that producers are given, where there are no canonical weights.
    """

    def __init__(
        self,
        weights: LinearWeights | None,
        config: LinearConfig,
        device: DeviceProfile,
        keep: KeepCanonical = "auto",
        *,
        forms: Mapping[str, PreparedWeights] | None = None,
        small: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self._config = config
        self._device = device
        self._keep = keep
        given = small or {}
        self._small: dict[str, torch.Tensor | None] = {
            name: given.get(name) if weights is None else getattr(weights, name) for name in _SMALL
        }
        self._canonical = weights
        self._home = None if weights is None else weights.data.device
        self._forms: dict[str, PreparedWeights] = dict(forms or {})

    @property
    def kept(self) -> LinearWeights | None:
        """The canonical weights as they are held now; None when they were freed."""
        return self._canonical

    @property
    def can_prepare(self) -> bool:
        """Tell whether another form can still be made: canonical weights are held or restorable."""
        undoable = any(form.restore is not None for form in self._forms.values())
        return self._canonical is not None or undoable

    @property
    def layouts(self) -> tuple[str, ...]:
        """Names of the prepared forms that are held."""
        return tuple(self._forms)

    @property
    def forms(self) -> Mapping[str, PreparedWeights]:
        """The prepared forms that are held, by name."""
        return self._forms

    def small(self, name: str) -> torch.Tensor | None:
        """Give bias, a global scale or a static input scale, which are never freed."""
        return self._small[name]

    @property
    def bytes_held(self) -> int:
        """Bytes of all tensors held, each storage counted once."""
        tensors = [t for form in self._forms.values() for t in form.tensors.values()]
        if self._canonical is not None:
            tensors += self._canonical.named().values()
        else:
            tensors += [t for t in self._small.values() if t is not None]
        return _bytes(tensors)

    def canonical(self) -> LinearWeights:
        """Give the canonical weights: those held, else restored, bit for bit.

        Raises:
            ConfigError: They were dropped (``keep_canonical = "never"``) after a preparation that
                cannot be undone.
        """
        if self._canonical is not None:
            return self._canonical
        for form in self._forms.values():
            if form.restore is not None:
                return replace(form.restore(), **self._small)  # type: ignore[arg-type]
        raise ConfigError(
            "the canonical weights of this layer are gone",
            facts=[
                'policy: keep_canonical = "never"',
                f"the preparation {', '.join(self._forms)} cannot be undone",
            ],
            hint='use keep_canonical="cpu" (host memory) or "auto"',
            code="canonical_dropped",
        )

    def prepared(self, layout: str, kernel: Consumer) -> PreparedWeights:
        """Give the weights in a kernel's form, made at the first call.

        Raises:
            BuildError: The kernel gave something else than its capability names.
            ConfigError: Canonical weights are needed, and were dropped.
            Exception: Whatever the kernel's ``prepare`` raises.
        """
        form = self._forms.get(layout)
        if form is None:
            weights = self.canonical()
            if self._home is not None:  # they may have been moved to the host
                weights = weights.to(self._home)
            given: Any = kernel.prepare(weights, self._config, self._device)
            if not isinstance(given, PreparedWeights) or given.weight_layout != layout:
                found = getattr(given, "weight_layout", type(given).__name__)
                raise BuildError(
                    "prepare gave another weight form than the capability names",
                    facts={"need": layout, "found": found},
                )
            self._forms[layout] = form = given
        return form

    def settle(self, in_use: Collection[str]) -> None:
        """Let go of the forms not in use and, where the policy allows it, of the canonical weights.

        A form that can be undone stands for them, whatever the policy: it is the same bits.
        """
        going = [name for name in self._forms if name not in in_use]
        staying = [form for name, form in self._forms.items() if name in in_use]
        is_lossless = any(form.restore is not None for form in staying)
        if self._canonical is None and not is_lossless and self._keep != "never":
            self._canonical = self.canonical()
        for name in going:
            del self._forms[name]
        if self._canonical is None or not staying:
            return
        shared = [t for form in staying for t in form.tensors.values()]
        if _is_within(self._canonical, shared):
            return  # the prepared form is made of the canonical tensors: nothing would be freed
        if is_lossless or self._keep == "never":
            self._canonical = None
        elif self._keep == "cpu":
            self._canonical = self._canonical.to("cpu")


def _is_within(weights: LinearWeights, tensors: Iterable[torch.Tensor]) -> bool:
    held = {_storage(t) for t in tensors}
    return all(_storage(t) in held for t in (weights.data, weights.scales))


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum({_storage(t): t.untyped_storage().nbytes() for t in tensors}.values())


def _storage(tensor: torch.Tensor) -> tuple[int, torch.device]:
    return tensor.untyped_storage().data_ptr(), tensor.device
