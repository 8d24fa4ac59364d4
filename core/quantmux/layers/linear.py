"""Linear: a quantized linear as an nn.Module."""

from __future__ import annotations

import logging
from copy import deepcopy
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, Self

import torch
from torch import nn

from quantmux.config import LinearConfig, Scheme
from quantmux.config.policy import Policy
from quantmux.errors import ConfigError, InputError, QuantmuxError
from quantmux.layers.canonical import NAMES, expected_names, from_state, scalar, to_state
from quantmux.ops.layouts import as_bits
from quantmux.ops.linear.weights import check_weights, quantize_weight
from quantmux.ops.quantized import (
    DATA_DTYPES,
    DTYPE_NAMES,
    DTYPES,
    LinearWeights,
    QuantizedTensor,
)
from quantmux.runtime.binding import BoundLinear, bind
from quantmux.runtime.context import Context, default_context
from quantmux.runtime.inputs import check_layer_input
from quantmux.runtime.producers import profile_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from quantmux.config import Dtype, QuantizeConfig
    from quantmux.dispatch.selection import Selection
    from quantmux.runtime.steps import Call

_log: Final = logging.getLogger("quantmux.layers")
_FREED: Final = ("weight", "weight_scale")


class Linear(nn.Module):
    """``y = x · Wᵀ + bias`` with quantized weights; x [..., K] or a QuantizedTensor, y [..., N].

    Built by `from_float` or `from_tensors`. The canonical tensors are buffers named ``weight``,
    ``weight_scale``, ``weight_global_scale``, ``bias``, ``input_scale``, ``input_global_scale``;
    a ``state_dict`` holds them whatever form the kernels read. ``weight`` and ``weight_scale`` are
    None while a prepared form that can be undone stands for them.

    The kernels are bound at the first call, or by `bind`. ``.to(device)`` and loading a state dict
    unbind; a dtype given to ``.to``, ``.half()`` and their like changes nothing here: what a
    quantized tensor means is in the config, not in its dtype.

    Attributes:
        config: Shapes, scheme, dtypes.
        layer: Name of the layer in its model, for the policy's rules and for events.
    """

    _bound: BoundLinear | None
    _call: Call | None
    _selection: Selection | None
    _device: torch.device
    input_scale: torch.Tensor | None
    input_global_scale: torch.Tensor | None

    def __init__(
        self,
        config: LinearConfig,
        weights: LinearWeights,
        *,
        layer: str | None = None,
        policy: Policy | Mapping[str, Any] | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.layer = layer
        self._policy = policy if policy is None or isinstance(policy, Policy) else Policy(**policy)
        self._context = context
        self._start()
        self._hold(weights)

    @classmethod
    def from_float(
        cls,
        weight: torch.Tensor,
        scheme: Scheme | str,
        bias: torch.Tensor | None = None,
        *,
        in_dtype: Dtype | None = None,
        out_dtype: Dtype | None = None,
        contiguous_output: bool = False,
        device: torch.device | str | None = None,
        input_scale: torch.Tensor | float | None = None,
        input_global_scale: torch.Tensor | float | None = None,
        layer: str | None = None,
        policy: Policy | Mapping[str, Any] | None = None,
        context: Context | None = None,
    ) -> Self:
        """Quantize a float weight and choose kernels for it.

        Args:
            weight: fp32, bf16 or fp16 [N, K]; not changed.
            scheme: A scheme or the name of a preset. ``nvfp4`` without ``input_global_scale``
                becomes ``nvfp4_dynamic``: the scale then comes from each x, one launch more.
            bias: [N], kept in its dtype.
            in_dtype: Format of plain inputs; the weight's when None.
            out_dtype: Format of y; ``in_dtype`` when None.
            contiguous_output: Ask for contiguous rows whatever N is.
            device: Where the layer lies; the weight's device when None.
            input_scale: Multiplier of static activations (`quantmux.calibrate`).
            input_global_scale: Multiplier g_a of NVFP4's static activations.
            layer: Name of the layer.
            policy: Policy of this layer, over everything else.
            context: Registry and quarantine; None takes the process's.

        Raises:
            ConfigError: The scheme is unknown, or needs a static scale that was not given.
            InputError: The weight, the bias or a scale is not usable.
            NoKernelError: Nothing can serve on the device.
        """
        if not isinstance(weight, torch.Tensor):
            raise InputError(f"weight needs to be a tensor, found {type(weight).__name__}")
        asked = Scheme.model_validate(scheme) if isinstance(scheme, str) else scheme
        home = weight.device if device is None else torch.device(device)
        asked = _with_scales(asked, input_scale, input_global_scale, layer)
        weights = quantize_weight(
            weight.detach().to(home),
            asked,
            bias=None if bias is None else bias.detach().to(home),
            input_scale=_needed(input_scale, "input_scale", asked, home),
            input_global_scale=_needed(input_global_scale, "input_global_scale", asked, home),
        )
        fmt: Any = in_dtype or DTYPE_NAMES[weight.dtype]
        config = LinearConfig(
            in_features=weight.shape[1],
            out_features=weight.shape[0],
            scheme=asked,
            in_dtype=fmt,
            out_dtype=out_dtype or fmt,
            bias=bias is not None,
            contiguous_output=contiguous_output,
        )
        made = cls(config, weights, layer=layer, policy=policy, context=context)
        made._select()
        return made

    @classmethod
    def from_tensors(
        cls,
        config: LinearConfig,
        tensors: Mapping[str, torch.Tensor] | LinearWeights,
        *,
        device: torch.device | str | None = None,
        layer: str | None = None,
        policy: Policy | Mapping[str, Any] | None = None,
        context: Context | None = None,
    ) -> Self:
        """Take canonical tensors as they are; they are shared, not copied, and never changed.

        Args:
            config: What they are.
            tensors: By the names of the class's buffers, or `LinearWeights`.
            device: Where the layer lies; where the tensors are when None.
            layer: Name of the layer.
            policy: Policy of this layer, over everything else.
            context: Registry and quarantine; None takes the process's.

        Raises:
            ConfigError: A name is not one of a linear's.
            InputError: A tensor is missing, or has another shape or dtype than the config gives,
                or a scale is not finite and positive.
            NoKernelError: Nothing can serve on the device.
        """
        weights = tensors if isinstance(tensors, LinearWeights) else from_state(tensors)
        weights = weights.to(weights.data.device if device is None else device)
        if weights.data.is_meta:
            raise InputError(
                "the tensors are on the meta device: they hold no values",
                hint="load them first, or build Linear(config, weights) and load with assign=True",
                code="device",
            )
        check_weights(weights, config, name=layer)
        made = cls(config, weights, layer=layer, policy=policy, context=context)
        made._select()
        return made

    @property
    def in_features(self) -> int:
        """Input width K."""
        return self.config.in_features

    @property
    def out_features(self) -> int:
        """Output width N."""
        return self.config.out_features

    @property
    def device(self) -> torch.device:
        """Where the layer lies."""
        return self._device

    @property
    def selection(self) -> Selection:
        """The kernels chosen on the layer's device; after `bind`, those that did build.

        Raises:
            NoKernelError: Nothing can serve there.
        """
        return self._bound.selection if self._bound is not None else self._select()

    @property
    def weights(self) -> LinearWeights:
        """The canonical weights; restored, bit for bit, if they were freed.

        Raises:
            ConfigError: The policy dropped them (``keep_canonical = "never"``).
        """
        if self._bound is not None:
            return self._bound.weights()
        held = LinearWeights(**{NAMES[n]: t for n, t in self._named() if t is not None})
        return held.to(self._device)  # a copy of a layer with keep_canonical="cpu" is on the host

    @property
    def context(self) -> Context:
        """Registry and quarantine it is served from."""
        return self._here()

    @property
    def bound(self) -> BoundLinear | None:
        """What calls go to, None before the first call."""
        return self._bound

    @property
    def bytes_held(self) -> int:
        """Bytes of prepared and canonical weights, each storage counted once."""
        return self.bind().bytes_held

    def bind(self) -> BoundLinear:
        """Prepare the weights and bind the kernels, once; done by the first call otherwise.

        Raises:
            BuildError: Nothing that builds can serve.
            NoKernelError: Nothing can serve on the device.
        """
        with self._lock:
            if self._bound is None:
                bound = bind(self._select(), self.weights, context=self._here(), layer=self.layer)
                kept = bound.store.kept
                for name in _FREED:
                    on_device = kept is not None and kept.data.device == self._device
                    self._buffers[name] = getattr(kept, NAMES[name]) if on_device else None
                self._bound = bound
                self._call = bound.call
            return self._bound

    def input_layout(self, m: int) -> QuantizeConfig | None:
        """Give the operand and layout that the kernel for M rows reads; None if it reads plain x.

        Binds the layer: what fails to build decides too.
        """
        return self.bind().input_layout(m)

    def warmup(self, ms: Sequence[int]) -> None:
        """Bind, and compile all that calls with these numbers of rows need."""
        self.bind().warmup(ms)

    def forward(self, x: torch.Tensor | QuantizedTensor) -> torch.Tensor:
        """Give y [..., N].

        Args:
            x: [..., K] in ``config.in_dtype``, or a quantized matrix [M, K] as `input_layout`
                says.

        Raises:
            InputError: x is elsewhere, of another dtype or width, needs a gradient, or is
                quantized in another way than is read.
            LaunchError: Every kernel failed, or the CUDA context is lost.
        """
        call = self._call
        if call is None:
            call = self.bind().call
        if isinstance(x, QuantizedTensor):
            return call(x)  # type: ignore[no-any-return]
        try:
            shape = x.shape
            fits = x.dtype is self._dtype and shape[-1] == self._k and x.device == self._device
        except (AttributeError, IndexError):
            fits = False
        if not fits:
            check_layer_input(x, self._k, self._dtype, self._device)
        if x.requires_grad and torch.is_grad_enabled():
            raise InputError(
                "x needs a gradient, and a quantized linear has none",
                hint="call it under torch.no_grad() or torch.inference_mode(), or x.detach()",
                code="autograd",
            )
        if len(shape) == 2:
            return call(x)  # type: ignore[no-any-return]
        y: torch.Tensor = call(x.reshape(-1, self._k))
        return y.view(*shape[:-1], self._n)

    def extra_repr(self) -> str:
        """Give shape, scheme, kernels and tier for ``print(model)``."""
        config = self.config
        text = (
            f"in_features={config.k}, out_features={config.n}, scheme={config.scheme.name}, "
            f"bias={config.bias}"
        )
        try:
            first = self.selection.ranges[0]
        except QuantmuxError as error:
            return f"{text}, no kernel: {error.headline}"
        more = f" (+{len(self.selection.ranges) - 1})" if len(self.selection.ranges) > 1 else ""
        return f"{text}, kernel={first.pipeline}{more}, tier={first.tier}"

    def _start(self) -> None:
        """Set what is derived from the config and what is not bound yet."""
        self._lock = RLock()
        self._bound = None
        self._call = None
        self._dtype = DTYPES[self.config.in_dtype]
        self._k, self._n = self.config.k, self.config.n

    def _hold(self, weights: LinearWeights) -> None:
        """Put canonical weights in the buffers; whatever was bound is void."""
        self._bound = None
        self._call = None
        self._selection = None
        self._device = weights.data.device
        tensors = to_state(weights)
        for name in NAMES:
            self.register_buffer(name, tensors.get(name))

    def _here(self) -> Context:
        return default_context() if self._context is None else self._context

    def _select(self) -> Selection:
        if self._selection is None:
            self._selection = self._here().select(
                self.config,
                profile_of(self._device),
                layer=self.layer,
                call_overrides=self._policy,
            )
        return self._selection

    def _named(self) -> list[tuple[str, torch.Tensor | None]]:
        return [(name, self._buffers[name]) for name in NAMES]

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        # fn moves, casts or both, and only the move may reach quantized tensors. An integer probe
        # shows the move: every cast of nn.Module leaves integers alone.
        del recurse
        probe = fn(torch.empty(0, dtype=torch.uint8, device=self._device))
        if probe.device != self._device:
            if self._device.type == "meta":
                weights = LinearWeights(
                    **{
                        NAMES[name]: torch.empty_like(tensor, device=probe.device)
                        for name, tensor in to_state(self.weights).items()
                    }
                )
            else:
                weights = self.weights.to(probe.device)
            self._hold(weights)
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        for name, tensor in to_state(self.weights).items():
            destination[prefix + name] = tensor if keep_vars else tensor.detach()

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        expected = expected_names(self.config)
        given = {n: state_dict[prefix + n] for n in NAMES if prefix + n in state_dict}
        missing_keys += [prefix + n for n in expected if n not in given] if strict else []
        if strict:
            unexpected_keys += [
                key
                for key in state_dict
                if key.startswith(prefix) and key.removeprefix(prefix) not in expected
            ]
        given = {name: tensor for name, tensor in given.items() if name in expected}
        if not given:
            return
        apart = [n for n in expected if n.startswith("weight") and n not in given]
        if apart and any(name.startswith("weight") for name in given):
            error_msgs.append(
                f"{prefix}weight cannot be loaded without {', '.join(apart)}: codes and scales "
                "belong together"
            )
            return
        takes_over = local_metadata.get("assign_to_params_buffers", False)
        if self._device.type == "meta" and not takes_over:
            error_msgs.append(f"{prefix}weight is on the meta device: load with assign=True")
            return
        try:
            current = to_state(self.weights) if len(given) < len(expected) else {}
            loaded = from_state({**current, **given})
            loaded = loaded.to(loaded.data.device if takes_over else self._device)
            check_weights(loaded, self.config, name=prefix.rstrip(".") or self.layer)
        except QuantmuxError as error:
            error_msgs.append(str(error))
            return
        if not takes_over:
            # what lies in the state dict stays the caller's, who may change it afterwards
            loaded = LinearWeights(**{n: t.detach().clone() for n, t in loaded.named().items()})
        self._hold(loaded)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        for name in ("_lock", "_bound", "_call", "_selection", "_context"):
            state.pop(name, None)
        # as bytes: torch cannot pickle fp8 tensors outside torch.save
        tensors = {name: as_bits(tensor) for name, tensor in to_state(self.weights).items()}
        state["_buffers"] = {**self._buffers, **{name: tensors.get(name) for name in NAMES}}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._context = None
        self._selection = None
        weight, buffers = self.config.scheme.weight, self._buffers
        for name, dtype in (
            ("weight", DATA_DTYPES[weight.element]),
            ("weight_scale", torch.float8_e4m3fn if weight.is_nvfp4 else torch.float32),
        ):
            held = buffers[name]
            buffers[name] = None if held is None else held.view(dtype)
        self._start()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copy = type(self).__new__(type(self))
        copy.__setstate__(deepcopy(self.__getstate__(), memo))
        copy.__dict__["_context"] = self._context  # plugins are not copied
        memo[id(self)] = copy
        return copy


def _with_scales(
    scheme: Scheme, input_scale: object, input_global_scale: object, layer: str | None
) -> Scheme:
    """Give the scheme that the scales at hand allow: none is ever assumed to be 1."""
    activation = scheme.activation
    if activation is None:
        return scheme
    if not activation.dynamic and input_scale is None:
        raise ConfigError(
            f"scheme {scheme.name} needs input_scale" + (f" for {layer}" if layer else ""),
            facts=["its activations are quantized with a scale found beforehand"],
            hint="find it with quantmux.calibrate(model, batches), or use a dynamic scheme "
            'such as "fp8_tensor"',
            code="calibration",
        )
    if activation.global_scale == "static" and input_global_scale is None:
        dynamic = scheme.replace(activation=activation.replace(global_scale="dynamic"))
        _log.info(
            "%s: scheme %s without input_global_scale becomes %s",
            layer or "linear",
            scheme.name,
            dynamic.name,
        )
        return dynamic
    return scheme


def _needed(
    value: torch.Tensor | float | None, name: str, scheme: Scheme, device: torch.device
) -> torch.Tensor | None:
    """Give the scale if the scheme has a use for it.

    Raises:
        ConfigError: It has none: the caller believes in another scheme than the one that runs.
    """
    found = scalar(value, name, device)
    activation = scheme.activation
    is_used = activation is not None and (
        not activation.dynamic if name == "input_scale" else activation.global_scale == "static"
    )
    if found is not None and not is_used:
        raise ConfigError(
            f"scheme {scheme.name} has no {name}",
            hint="leave it out, or use a static scheme such as fp8_tensor_static or nvfp4",
        )
    return found


__all__ = ["Linear"]
