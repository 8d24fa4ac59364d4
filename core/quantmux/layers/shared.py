"""shared_input: several linears that read one x, quantized once where their inputs agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch.compiler import is_dynamo_compiling

from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.dispatch.join import satisfies, satisfies_layout
from quantmux.errors import ConfigError, InputError
from quantmux.layers.linear import Linear
from quantmux.ops.quantized import DTYPES, QuantizedTensor
from quantmux.runtime.capture import not_warmed, refuse_to_bind
from quantmux.runtime.failures import is_capturing
from quantmux.runtime.inputs import check_layer_input
from quantmux.runtime.producers import quantize
from quantmux.runtime.steps import static_scales
from quantmux.runtime.traced.fused import Recipe
from quantmux.runtime.traced.keys import linear_program
from quantmux.runtime.traced.legality import segments
from quantmux.runtime.traced.library import constant
from quantmux.runtime.traced.prologue import Prologue
from quantmux.runtime.traced.scales import SeenScales

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.config import QuantizeConfig

_SCALES: Final = ("input_scale", "input_global_scale")


class SharedInput:
    """Linears that read the same x; ``shared(x)`` gives all their outputs.

    Args:
        layers: At least one; same K, input format and device.
    """

    def __init__(self, layers: Sequence[Linear]) -> None:
        self.layers = tuple(layers)
        if not self.layers:
            raise ConfigError("shared_input needs at least one linear")
        for layer in self.layers:
            if not isinstance(layer, Linear):
                raise InputError(
                    f"shared_input takes quantmux.Linear, found {type(layer).__name__}",
                    hint="quantize the layer first: quantmux.Linear.from_float, or quantize_",
                )
        first = self.layers[0]
        for other in self.layers[1:]:
            _require_alike(first, other)
        self._scale_reasons: tuple[Rejection, ...] | None = None
        self._scales: tuple[tuple[Linear, str, torch.Tensor], ...] = ()
        self._seen = SeenScales(())

    def __call__(self, x: torch.Tensor | QuantizedTensor) -> tuple[torch.Tensor, ...]:
        """Give the outputs of all linears, each [..., N]; x is quantized once if they agree.

        Under torch.compile it is one op, ``quantmux::fused_linear``, or one per linear where they
        agree for no number of rows.

        Raises:
            InputError: x does not fit, see `Linear`.
        """
        if is_dynamo_compiling():
            return self._in_graph(x)
        if isinstance(x, QuantizedTensor):
            return tuple(layer(x) for layer in self.layers)
        first = self.layers[0]
        config = first.config
        if not isinstance(x, torch.Tensor):
            check_layer_input(x, config.k, DTYPES[config.in_dtype], first.device)
        flat = x.reshape(-1, config.k) if x.ndim != 2 and x.shape[-1:] == (config.k,) else x
        q = self.quantize(flat) if flat.ndim == 2 else None
        if q is None:
            return tuple(layer(x) for layer in self.layers)
        lead = x.shape[:-1]
        return tuple(layer(q).view(*lead, layer.out_features) for layer in self.layers)

    def _in_graph(self, x: torch.Tensor | QuantizedTensor) -> tuple[torch.Tensor, ...]:
        """Give what dynamo traces in place of a call."""
        if isinstance(x, QuantizedTensor):
            return tuple(layer(x) for layer in self.layers)
        for layer in self.layers:
            layer._bind_in_graph()  # noqa: SLF001 - what a linear shows to graphs
        key = _shared_key(*[layer._key for layer in self.layers])  # noqa: SLF001
        if key is None:
            return tuple(layer(x) for layer in self.layers)
        first = self.layers[0]
        k, dtype = first.in_features, DTYPES[first.config.in_dtype]
        shape = x.shape
        is_wrong = x.dtype is not dtype or shape[-1] != k or x.device != first.device
        if is_wrong or (x.requires_grad and torch.is_grad_enabled()):
            # the plain call raises what is wrong: dynamo of torch 2.11 cannot raise our errors
            from quantmux.runtime.untraced import untraced

            return untraced(SharedInput.__call__, self, x)  # type: ignore[no-any-return]
        weights = [w for layer in self.layers for w in layer._weights]  # noqa: SLF001
        flat = x if len(shape) == 2 else x.reshape(-1, k)
        ys = torch.ops.quantmux.fused_linear([flat], weights, key)
        if len(shape) == 2:
            return tuple(ys)
        pairs = zip(ys, self.layers, strict=True)
        return tuple(y.view(*shape[:-1], layer.out_features) for y, layer in pairs)

    def quantize(self, x: torch.Tensor) -> QuantizedTensor | None:
        """Quantize x [M, K] for all of them; None where `reasons` says why not.

        Raises:
            InputError: x has another shape, dtype or device, or needs a gradient.
        """
        m = x.shape[0]
        reads = self.layers[0].input_layout(m)
        if reads is None or self.reasons(m):
            return None
        if x.requires_grad and torch.is_grad_enabled():
            raise _no_gradient()
        first = self.layers[0]
        given = static_scales(reads.operand, first.input_scale, first.input_global_scale)
        config = reads if reads.in_dtype == first.config.in_dtype else reads.replace(
            in_dtype=first.config.in_dtype
        )  # fmt: skip
        return quantize(
            x,
            config,
            scale=given.get("scale"),
            global_scale=given.get("global_scale"),
            context=first.context,
        )

    def warmup(self, ms: Sequence[int]) -> None:
        """Warm up every linear and the quantizer that they share, as before a capture.

        Args:
            ms: Numbers of rows; see `Linear.warmup`.
        """
        first = self.layers[0]
        for layer in self.layers:
            layer.warmup(ms)
        for m in ms:
            shape = (m, first.config.k)
            dtype = DTYPES[first.config.in_dtype]
            self.quantize(torch.zeros(shape, dtype=dtype, device=first.device))

    def reasons(self, m: int) -> tuple[Rejection, ...]:
        """Give the reasons why one quantized x cannot serve all for M rows; empty if it can."""
        layouts = [layer.input_layout(m) for layer in self.layers]
        first = layouts[0]
        found: list[Rejection] = []
        for place, other in enumerate(layouts[1:], 1):
            found += _disagreement(first, other, self._name(place))
        if first is None and not found:
            found.append(_reject("input_layout", "a quantized x", "all read a plain x"))
        if not found and (self._scale_reasons is None or self._are_others()):
            self._scale_reasons = self._compare_scales()
        return (*found, *(self._scale_reasons or ()))

    def _are_others(self) -> bool:
        """Tell whether a static scale was changed in place or replaced since they were compared."""
        seen = self._seen
        if seen and seen.changed():
            return True
        return any(getattr(layer, name) is not scale for layer, name, scale in self._scales)

    def _compare_scales(self) -> tuple[Rejection, ...]:
        """Compare static scales: it reads them, hence synchronises."""
        found: list[Rejection] = []
        scales = tuple(
            (layer, name, scale)
            for name in _SCALES
            for layer in self.layers
            if (scale := getattr(layer, name)) is not None
        )
        if scales:
            self._refuse_to_read()
        # versions first: what changes while it is compared is compared again
        self._scales, self._seen = scales, SeenScales(scale for _, _, scale in scales)
        for name in _SCALES:
            mine = getattr(self.layers[0], name)
            for place, layer in enumerate(self.layers[1:], 1):
                other = getattr(layer, name)
                same = (mine is None) == (other is None) and (
                    mine is None or bool(torch.equal(mine, other))
                )
                if not same:
                    found.append(
                        _reject(f"{name} of {self._name(place)}", _number(mine), _number(other))
                    )
        return tuple(found)

    def _refuse_to_read(self) -> None:
        """Raise within a capture: nothing is read there."""
        if self._scale_reasons is None:
            refuse_to_bind("shared_input", is_linear=True)
        elif is_capturing():
            raise not_warmed(
                "shared_input",
                "static scales were changed since they were compared",
                hint="call it once, or its warmup, before the capture",
            )

    def _name(self, place: int) -> str:
        return self.layers[place].layer or f"linear {place}"


def shared_input(layers: Sequence[Linear]) -> SharedInput:
    """Give a callable that quantizes x once for several linears, such as q, k and v.

    Where their inputs do not agree, each gets the plain x and ``reasons(m)`` says why.

    Raises:
        ConfigError: No linear, or they differ in K, input format or device.
        InputError: One of them is no `Linear`.
    """
    return SharedInput(layers)


@constant
def _shared_key(*keys: str) -> str | None:
    """Give the key of one op for linears; None where no two of them ever agree.

    Static scales are compared by the op, when it is first called: here they may have no values.
    """
    programs = [linear_program(key) for key in keys]
    config: Any = programs[0].selection.config
    if any(program.context is not programs[0].context for program in programs):
        return None
    prologue = Prologue("none", config.in_dtype)
    if not any(segment.is_fused for segment in segments(prologue, programs)):
        return None
    return Recipe(prologue, keys, None).key()


def _no_gradient() -> InputError:
    return InputError(
        "x needs a gradient, and a quantized linear has none",
        hint="call it under torch.no_grad() or torch.inference_mode(), or x.detach()",
        code="autograd",
    )


def _require_alike(first: Linear, other: Linear) -> None:
    for name in ("in_features", "in_dtype"):
        need, found = getattr(first.config, name), getattr(other.config, name)
        if need != found:
            raise ConfigError(
                f"linears that share an input differ in {name}",
                facts={"first": need, "other": found},
            )
    if first.device != other.device:
        raise ConfigError(
            "linears that share an input lie on different devices",
            facts={"first": first.device, "other": other.device},
        )


def _disagreement(
    first: QuantizeConfig | None, other: QuantizeConfig | None, name: str
) -> list[Rejection]:
    if first is None or other is None:
        if first is other:
            return []
        return [_reject(f"input of {name}", _text(first), _text(other))]
    reasons = (
        *satisfies(first.operand, other.operand),
        *satisfies_layout(first.layout, other.layout),
    )
    found = [r.replace(field=f"{r.field} of {name}") for r in reasons]
    if not found and first.operand.global_scale != other.operand.global_scale:
        need, have = first.operand.global_scale, other.operand.global_scale
        found.append(_reject(f"global_scale of {name}", need, have))
    return found


def _text(config: QuantizeConfig | None) -> str:
    return "a plain x" if config is None else f"{config.operand.name} {config.layout}"


def _number(scale: torch.Tensor | None) -> str:
    return "none" if scale is None else f"{float(scale):.9g}"


def _reject(field: str, need: object, have: object) -> Rejection:
    return Rejection(code=RejectionCode.OPERAND, field=field, required=str(need), actual=str(have))


__all__ = ["SharedInput", "shared_input"]
