"""Which linears of a model `quantize_` may swap: one answer for it and for `calibrate`."""

from __future__ import annotations

from typing import Final

from torch import nn

from quantmux.ops.quantized import DTYPE_NAMES

# Their forward hands the weights of their linears to a fused function of torch's own.
_READS_WEIGHTS: Final = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
_HOOKS: Final = {
    "_forward_pre_hooks": "a forward pre-hook",
    "_forward_hooks": "a forward hook",
    "_backward_pre_hooks": "a backward pre-hook",
    "_backward_hooks": "a backward hook",
}


def unfit(module: nn.Linear, parent: nn.Module) -> str | None:
    """Say why a linear cannot be swapped where it stands, None if it can.

    Args:
        module: The linear.
        parent: The module it stands in.
    """
    # not `module.weight`: of weight_norm it may be stale, of parametrize reading it computes it
    own = module._parameters  # noqa: SLF001 - named_parameters() leaves out a bias that is None
    for name in ("weight", "bias"):
        if name not in own:
            return (
                f"its {name} is computed from other parameters (weight_norm, spectral_norm, prune "
                "or their like): make it a plain parameter first"
            )
    if type(module) is not nn.Linear:
        return f"{type(module).__name__} is a subclass of nn.Linear with a forward of its own"
    if "forward" in vars(module):
        return "its forward was replaced on the module itself"
    if isinstance(parent, _READS_WEIGHTS):
        return f"{type(parent).__name__} reads the weights of its linears itself"
    for attribute, what in _HOOKS.items():
        if getattr(module, attribute):
            return f"it has {what}, which the quantized linear would not have"
    weight = own["weight"]
    if weight is None:
        return "it has no weight"
    if weight.dtype not in DTYPE_NAMES:
        return f"its weight is {weight.dtype}"
    if weight.device.type == "meta":
        return "its weight is on the meta device: load it first"
    return None
