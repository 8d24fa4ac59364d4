"""calibrate: run sample batches and note how large the input of every linear becomes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from quantmux.config.patterns import check_pattern, matches
from quantmux.errors import ConfigError, InputError
from quantmux.layers.calibration import Calibration, as_scheme
from quantmux.layers.eligible import unfit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from quantmux.config import Scheme


def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    include: str | Iterable[str] | None = None,
    schemes: Scheme | str | Mapping[str, Scheme | str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Calibration:
    """Run the model on sample batches and note the largest input of every nn.Linear.

    Watched is what `quantize_` would swap; what it would skip (the linears of
    nn.MultiheadAttention, for one) only if ``include`` fits it, and then it may stay unreached.
    The model runs in eval mode without gradients; its training flags are put back.

    Args:
        model: Not changed.
        batches: Each a tensor, a tuple or list (``model(*batch)``) or a mapping
            (``model(**batch)``).
        include: Patterns of module names (globs, or ``re:``); all that
            `quantize_` would swap when None.
        schemes: Only linears whose scheme needs a static scale are watched; a scheme for all,
            or patterns → schemes. All linears when None.
        progress: Called with the number of batches done.

    Raises:
        ConfigError: No batch, no linear to watch, or a linear that no batch reached.
        InputError: An input held NaN or Inf; names the module.
    """
    watched, optional = _watched(model, include, schemes)
    amax: dict[str, torch.Tensor] = {}
    count = 0
    with _hooks(watched, amax), _evaluating(model), torch.no_grad():
        for batch in batches:
            _feed(model, batch)
            count += 1
            if progress is not None:
                progress(count)
    if not count:
        raise ConfigError("calibrate needs at least one batch, found none", code="calibration")
    found = {name: float(value) for name, value in amax.items()}
    for name, value in found.items():
        if not math.isfinite(value):
            raise InputError(
                f"the input of {name} holds NaN or Inf",
                facts=[f"largest magnitude over {count} batches: {value}"],
                hint="look for the batch; a scale cannot be taken from it",
                code="non_finite",
            )
    needed = [name for name in watched if name not in optional]
    missed = [name for name in needed if name not in found]
    if missed or not found:
        missed = missed or list(watched)
        raise ConfigError(
            f"{len(missed)} of {len(watched)} linears were not reached by any batch",
            facts=missed[:8],
            hint="calibrate with batches that reach them, or name the others with include=",
            code="calibration",
        )
    return Calibration(found, count)


def _watched(
    model: nn.Module,
    include: str | Iterable[str] | None,
    schemes: Scheme | str | Mapping[str, Scheme | str] | None,
) -> tuple[dict[str, nn.Linear], set[str]]:
    """Give the linears to watch by name, and the names of those that need not be reached."""
    patterns = (include,) if isinstance(include, str) else include
    patterns = None if patterns is None else tuple(check_pattern(p) for p in patterns)
    fit: dict[nn.Linear, str] = {}
    others: dict[nn.Linear, str] = {}
    passed: list[str] = []
    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.Linear) or not _needs_scale(name, schemes):
            continue
        if patterns is not None and not any(matches(p, name) for p in patterns):
            continue
        reason = unfit(module, model.get_submodule(name.rpartition(".")[0]))
        if reason is None:
            fit.setdefault(module, name)
        elif patterns is None:
            passed.append(f"{name}: {reason}")
        else:
            others.setdefault(module, name)
    optional = {name for module, name in others.items() if module not in fit}
    found = {name: module for module, name in {**others, **fit}.items()}
    if not found:
        raise ConfigError(
            "calibrate found no linear to watch",
            facts=[f"include = {patterns}", f"schemes = {schemes}", *passed[:8]],
            hint="quantize_ would skip them too; include= watches them all the same"
            if passed
            else "names are those of model.named_modules()",
            code="calibration",
        )
    return found, optional


def _needs_scale(name: str, schemes: Scheme | str | Mapping[str, Scheme | str] | None) -> bool:
    if schemes is None:
        return True
    if isinstance(schemes, Mapping):
        chosen = next((s for pattern, s in schemes.items() if matches(pattern, name)), None)
        return chosen is not None and as_scheme(chosen).needs_static_activation_scale
    return as_scheme(schemes).needs_static_activation_scale


@contextmanager
def _hooks(watched: Mapping[str, nn.Linear], amax: dict[str, torch.Tensor]) -> Iterator[None]:
    handles = [
        module.register_forward_pre_hook(_observer(name, amax), with_kwargs=True)
        for name, module in watched.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _observer(name: str, amax: dict[str, torch.Tensor]) -> Callable[[nn.Module, Any, Any], None]:
    def observe(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs.get("input")
        if not isinstance(x, torch.Tensor) or not x.numel():
            return  # what is no tensor the linear itself refuses
        # amax and maximum keep a NaN, so one look at the end finds it; nothing waits for the GPU
        largest = x.detach().abs().amax().to(torch.float32)
        seen = amax.get(name)
        amax[name] = largest if seen is None else torch.maximum(seen, largest)

    return observe


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _feed(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, tuple | list):
        model(*batch)
    elif isinstance(batch, torch.Tensor):
        model(batch)
    else:
        raise InputError(
            f"a batch is a tensor, a tuple, a list or a mapping, found {type(batch).__name__}"
        )


__all__ = ["Calibration", "calibrate"]
