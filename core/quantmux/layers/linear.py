"""Linear: a quantized linear as an nn.Module."""

from __future__ import annotations

import math
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any, Final, Self
from weakref import WeakSet

import torch
from torch.compiler import is_dynamo_compiling

from quantmux.config import LinearConfig, Scheme
from quantmux.config.policy import Policy
from quantmux.errors import InputError, QuantmuxError
from quantmux.layers.canonical import NAMES, from_state
from quantmux.layers.held import HeldWeights
from quantmux.layers.scales import needed_scale, runnable_scheme
from quantmux.ops.linear.weights import check_weights, quantize_weight
from quantmux.ops.quantized import (
    DTYPE_NAMES,
    DTYPES,
    LinearWeights,
    QuantizedTensor,
)
from quantmux.registry.guard import guarded
from quantmux.runtime.binding import BoundLinear, bind
from quantmux.runtime.capture import not_warmed
from quantmux.runtime.context import Context, default_context
from quantmux.runtime.failures import is_capturing
from quantmux.runtime.inputs import check_layer_input, home_of
from quantmux.runtime.producers import profile_of
from quantmux.runtime.traced.keys import form_key
from quantmux.runtime.traced.library import constant
from quantmux.runtime.traced.linear import expose

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from quantmux.config import Dtype, QuantizeConfig
    from quantmux.dispatch.selection import Selection
    from quantmux.runtime.steps import Call

_FREED: Final = ("weight", "weight_scale")
_waiting: WeakSet[Linear] = WeakSet()
"""Layers that graphs have no key of yet."""

_waiting_lock = Lock()


class Linear(HeldWeights):
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
    _key: str | None
    _weights: tuple[torch.Tensor, ...]

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
            InputError: The weight, the bias or a scale is not usable, or has no values (meta).
            NoKernelError: Nothing can serve on the device.
        """
        if not isinstance(weight, torch.Tensor):
            raise InputError(f"weight needs to be a tensor, found {type(weight).__name__}")
        asked = Scheme.model_validate(scheme) if isinstance(scheme, str) else scheme
        home = weight.device if device is None else home_of(device)
        if any(t is not None and t.is_meta for t in (weight, bias)) or home.type == "meta":
            raise InputError(
                "a weight is quantized by its values, and a tensor on the meta device has none",
                facts={"weight": weight.device, "device": home},
                hint="load the weight first; the layer can be moved to meta afterwards",
                code="device",
            )
        asked = runnable_scheme(asked, input_scale, input_global_scale, layer)
        weights = quantize_weight(
            weight.detach().to(home),
            asked,
            bias=None if bias is None else bias.detach().to(home),
            input_scale=needed_scale(input_scale, "input_scale", asked, home),
            input_global_scale=needed_scale(input_global_scale, "input_global_scale", asked, home),
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
        weights = weights.to(weights.data.device if device is None else home_of(device))
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
        return super().weights

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

    def bind(self, *, wait: bool = False) -> BoundLinear:
        """Prepare the weights and bind the kernels, once; done by the first call otherwise.

        Args:
            wait: Wait for libraries that are being compiled; else the next kernel serves, for as
                long as nobody calls `rebind`.

        Raises:
            BuildError: Nothing that builds can serve.
            NoKernelError: Nothing can serve on the device.
        """
        with self._lock:
            return self._bound if self._bound is not None else self._bind(wait=wait)

    def rebind(self, *, wait: bool = False) -> bool:
        """Take the kernels whose libraries were not compiled when the layer was bound.

        A bound layer never changes its kernels by itself: outputs would change by a rounding in
        the middle of a run, and CUDA graphs hold addresses of the form of the weights that was
        prepared. So whoever knows that nothing runs calls this; graphs are to be captured anew.

        Args:
            wait: Wait for those that are still being compiled.

        Returns:
            Whether the layer was bound anew. False when it is not bound yet, when nothing was
            pending, or when nothing of it is ready and ``wait`` is False.

        Raises:
            BuildError: Nothing that builds can serve.
        """
        with self._lock:
            bound = self._bound
            if bound is None or not bound.pending or not (wait or bound.has_news):
                return False
            self._bind(wait=wait)
            return True

    def _bind(self, *, wait: bool) -> BoundLinear:
        if is_capturing():  # before the weights are restored
            raise not_warmed(self._name, "it is not bound yet")
        weights, here = self.weights, self._here()
        bound = bind(self._select(), weights, context=here, layer=self.layer, wait=wait)
        kept = bound.store.kept
        for name in _FREED:
            on_device = kept is not None and kept.data.device == self._device
            self._buffers[name] = getattr(kept, NAMES[name]) if on_device else None
        self._bound = bound
        self._call = bound.call
        self._wait_for_graphs()
        return bound

    def input_layout(self, m: int) -> QuantizeConfig | None:
        """Give the operand and layout that the kernel for M rows reads; None if it reads plain x.

        Binds the layer: what fails to build decides too.
        """
        return self.bind().input_layout(m)

    def warmup(self, ms: Sequence[int]) -> None:
        """Bind, and compile all that calls with these numbers of rows need, however long it takes.

        Libraries that were not compiled when the layer was bound are taken now (`rebind`).
        """
        self.rebind(wait=True)
        self.bind(wait=True).warmup(ms)

    def forward(self, input: torch.Tensor | QuantizedTensor) -> torch.Tensor:  # noqa: A002
        """Give y [..., N]; under torch.compile it is one op, ``quantmux::linear``.

        Args:
            input: x, [..., K] in ``config.in_dtype``, or a quantized matrix [M, K] as
                `input_layout` says.

        Raises:
            InputError: x is elsewhere, of another dtype or width, needs a gradient, or is
                quantized in another way than is read.
            LaunchError: Every kernel failed, or the CUDA context is lost.
        """
        if is_dynamo_compiling():
            return self._in_graph(input)
        x = input  # named as in nn.Linear: models may pass it by keyword
        call = self._call
        if call is None:
            if is_capturing():
                raise not_warmed(self._name, "it is not bound yet", m=_rows_of(x))
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
            _refuse_gradient()
        if len(shape) == 2:
            return call(x)  # type: ignore[no-any-return]
        y: torch.Tensor = call(x.reshape(-1, self._k))
        return y.view(*shape[:-1], self._n)

    def _in_graph(self, x: torch.Tensor | QuantizedTensor) -> torch.Tensor:
        """Give what dynamo traces in place of a call."""
        self._bind_in_graph()
        key, weights = self._key, list(self._weights)
        ops = torch.ops.quantmux
        if isinstance(x, QuantizedTensor):
            form, m = form_key(x.operand, x.layout), x.logical_shape[0]
            return ops.linear_quantized(x.data, x.scales, x.global_scale, m, weights, form, key)  # type: ignore[no-any-return]
        shape = x.shape
        if x.dtype is not self._dtype or shape[-1] != self._k or x.device != self._device:
            # raised past dynamo: torch 2.11 loses an exception that is raised within a traced call
            _untraced(check_layer_input, x, self._k, self._dtype, self._device)
        if x.requires_grad and torch.is_grad_enabled():
            _untraced(_refuse_gradient)
        if len(shape) == 2:
            return ops.linear(x, weights, key)  # type: ignore[no-any-return]
        y: torch.Tensor = ops.linear(x.reshape(-1, self._k), weights, key)
        return y.view(*shape[:-1], self._n)

    @constant
    def _bind_in_graph(self) -> bool:
        """Bind while dynamo traces; what the graph then reads, `_key` and `_weights`, it guards."""
        self.expose()
        # those alike that wait are bound now too: a graph guards on the key, and a layer without
        # one would be traced anew, each of a model's layers, until dynamo gives up
        with _waiting_lock:
            others = list(_waiting)
        for other in others:
            if self._is_alike(other):
                # what fails there is told by that layer's own call
                guarded(other.expose)
        return True

    def expose(self) -> None:
        """Bind, and make the layer known to graphs; done while the first one is traced."""
        with self._lock:
            if self._key is None:
                self._key, self._weights = expose(self.bind(), self._here(), self.layer)
                with _waiting_lock:
                    _waiting.discard(self)

    def _is_alike(self, other: Linear) -> bool:
        # another thread may be making it: it has no device before it holds weights
        return (
            other is not self
            and getattr(other, "_device", None) == self._device
            and other.config == self.config
            and other._here() is self._here()
        )

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
        self._unbind()
        self._dtype = DTYPES[self.config.in_dtype]
        self._k, self._n = self.config.k, self.config.n

    def _unbind(self) -> None:
        """Forget what was bound and selected: the weights are others, or elsewhere."""
        self._bound = None
        self._call = None
        self._selection = None
        self._wait_for_graphs()

    @property
    def _name(self) -> str:
        """The layer as errors name it."""
        return self.layer or str(self.config)

    def _wait_for_graphs(self) -> None:
        """Let graphs know nothing of it: what was bound is another, or nothing is."""
        self._key, self._weights = None, ()
        with _waiting_lock:
            _waiting.add(self)

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


def _rows_of(x: Any) -> int | None:
    """Give M of what `Linear` was called with; None for what it would refuse."""
    if isinstance(x, QuantizedTensor):
        return x.m
    shape = getattr(x, "shape", None)
    return math.prod(shape[:-1]) if shape else None


def _untraced(function: Callable[..., None], *args: Any) -> None:
    from quantmux.runtime.untraced import untraced

    untraced(function, *args)


def _refuse_gradient() -> None:
    raise InputError(
        "x needs a gradient, and a quantized linear has none",
        hint="call it under torch.no_grad() or torch.inference_mode(), or x.detach()",
        code="autograd",
    )


__all__ = ["Linear"]
