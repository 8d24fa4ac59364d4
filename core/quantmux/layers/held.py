"""HeldWeights: a module whose canonical weights survive moves, casts, copies and state dicts."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from quantmux.errors import QuantmuxError
from quantmux.layers.canonical import NAMES, expected_names, from_state, only_used, to_state
from quantmux.ops.layouts import as_bits
from quantmux.ops.linear.weights import check_weights
from quantmux.ops.quantized import DATA_DTYPES, LinearWeights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from quantmux.config import LinearConfig
    from quantmux.runtime.context import Context

_NOT_COPIED = ("_lock", "_bound", "_call", "_selection", "_context", "_key", "_weights")
"""What belongs to the process: threads, kernels, plugins."""


class HeldWeights(nn.Module):
    """Canonical weights as buffers under the names of `canonical.NAMES`.

    Subclasses set ``config`` and ``layer``, say in `weights` where freed tensors come from, and
    forget in `_unbind` what was made of them.
    """

    config: LinearConfig
    layer: str | None
    input_scale: torch.Tensor | None
    input_global_scale: torch.Tensor | None
    _device: torch.device
    _context: Context | None

    @property
    def weights(self) -> LinearWeights:
        """The canonical weights."""
        held = {NAMES[name]: self._buffers[name] for name in NAMES}
        present = {name: tensor for name, tensor in held.items() if tensor is not None}
        # a copy of a layer with keep_canonical="cpu" is on the host
        return LinearWeights(**present).to(self._device)

    def _start(self) -> None:
        """Set what is neither copied nor pickled."""
        raise NotImplementedError

    def _unbind(self) -> None:
        """Forget what was made of the weights: they are others, or elsewhere."""
        raise NotImplementedError

    def _hold(self, weights: LinearWeights) -> None:
        """Put canonical weights in the buffers."""
        self._unbind()
        self._device = weights.data.device
        tensors = to_state(only_used(weights, self.config))
        for name in NAMES:
            self.register_buffer(name, tensors.get(name))

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
        for name in _NOT_COPIED:
            state.pop(name, None)
        # as bytes: torch cannot pickle fp8 tensors outside torch.save
        tensors = {name: as_bits(tensor) for name, tensor in to_state(self.weights).items()}
        state["_buffers"] = {**self._buffers, **{name: tensors.get(name) for name in NAMES}}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._context = None
        weight, buffers = self.config.scheme.weight, self._buffers
        for name, dtype in (
            ("weight", DATA_DTYPES[weight.element]),
            ("weight_scale", torch.float8_e4m3fn if weight.is_nvfp4 else torch.float32),
        ):
            held = buffers[name]
            buffers[name] = None if held is None else held.view(dtype)
        self._start()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copy: Self = type(self).__new__(type(self))
        copy.__setstate__(deepcopy(self.__getstate__(), memo))
        copy.__dict__["_context"] = self._context  # plugins are not copied
        memo[id(self)] = copy
        return copy
