"""One FP8 token quantizer, and what can go wrong when it is asked."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import torch

from quantmux.config import operand
from quantmux.errors import ShapeError
from quantmux.ops.quantize.reference import quantize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_AWAY = 600.0


class Rude(BaseException):
    """No Exception: `except Exception` does not catch it."""


class Right:
    """The op's own definition."""

    def bind(self, config: Any, device: Any) -> Callable[..., Any]:
        del device
        return lambda x, **given: self.call(config, x, given)

    def warmup(self, config: Any, ms: Sequence[int]) -> None:
        """Do nothing: there is no code to compile."""

    def call(self, config: Any, x: torch.Tensor, given: dict[str, Any]) -> Any:
        return quantize(x, config, **given)


class Does(Right):
    """Does something first, and then what is right."""

    def __init__(self, what: Callable[[], object]) -> None:
        self.what = what

    def call(self, config: Any, x: torch.Tensor, given: dict[str, Any]) -> Any:
        self.what()
        return super().call(config, x, given)


class Gives(Right):
    """Gives something else than its result."""

    def __init__(self, change: Callable[[Any], Any]) -> None:
        self.change = change

    def call(self, config: Any, x: torch.Tensor, given: dict[str, Any]) -> Any:
        return self.change(super().call(config, x, given))


class OnBind(Does):
    def bind(self, config: Any, device: Any) -> Callable[..., Any]:
        self.what()
        return Right.bind(Right(), config, device)


class OnWarmup(Right):
    def warmup(self, config: Any, ms: Sequence[int]) -> None:
        del config, ms
        raise RuntimeError("nvcc: not found")


class Corrupts(Right):
    """Writes 64 bytes behind (or before) the memory that it was given, past every check."""

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def call(self, config: Any, x: torch.Tensor, given: dict[str, Any]) -> Any:
        made = super().call(config, x, given)
        # what lies around memory of its own would kill the test; no elements have no address
        if given.get("out") is not None and made.data.numel():
            size = made.data.numel()
            start = made.data.data_ptr() + (size if self.offset > 0 else -64)
            ctypes.memset(start, 0, 64)
        return made


class Liar(torch.Tensor):
    """A tensor that calls itself equal to everything."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        with torch._C.DisableTorchFunctionSubclass():
            made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.dtype == torch.bool:
            return torch.zeros_like(made)  # nothing ever differs
        return made


def _raise(error: BaseException) -> object:
    raise error


def _pytest(name: str, *args: Any, **kwargs: Any) -> Callable[[], object]:
    def call() -> object:
        import pytest

        return getattr(pytest, name)(*args, **kwargs)

    return call


def _lying(made: Any) -> Any:
    from dataclasses import replace

    made.data.view(torch.uint8).zero_()
    return replace(made, data=made.data.as_subclass(Liar), scales=made.scales.as_subclass(Liar))


def _relabelled(**changes: Any) -> Callable[[Any], Any]:
    def change(made: Any) -> Any:
        from dataclasses import replace

        return replace(made, **changes)

    return change


right = Right()
raises = Does(lambda: _raise(RuntimeError("boom")))
raises_rudely = Does(lambda: _raise(Rude("boom")))
refuses_shape = Does(lambda: _raise(ShapeError("n must be a multiple of 4096")))
exits = Does(lambda: sys.exit(0))
skips = Does(_pytest("skip", "not today"))
xfails = Does(_pytest("xfail", "known"))
ends_pytest = Does(_pytest("exit", "enough", returncode=0))
bind_raises = OnBind(lambda: _raise(RuntimeError("no workspace")))
bind_skips = OnBind(_pytest("skip", "not today"))
warmup_raises = OnWarmup()
hangs = Does(lambda: time.sleep(_AWAY))
dies = Does(lambda: os._exit(3))
dies_quietly = Does(lambda: os._exit(0))
segfaults = Does(lambda: ctypes.string_at(0))
aborts = Does(os.abort)
is_killed = Does(lambda: os.kill(os.getpid(), signal.SIGKILL))
corrupts_behind = Corrupts(1)
corrupts_before = Corrupts(-1)
gives_none = Gives(lambda _: None)
gives_tensor = Gives(lambda made: made.data)
gives_tuple = Gives(lambda made: (made.data, made.scales))
gives_list = Gives(lambda made: made.data.float().tolist())
gives_another_operand = Gives(_relabelled(operand=operand("fp8_group128")))
gives_another_width = Gives(_relabelled(logical_shape=(1, 1)))
gives_no_scales = Gives(_relabelled(scales=None))
lies = Gives(_lying)
