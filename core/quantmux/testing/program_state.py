"""ProgramState: what belongs to the program around a kernel, and is to be found as it was left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch

_RANDOM: Final = "random numbers"


@dataclass(frozen=True, slots=True, eq=False)
class ProgramState:
    """PyTorch's settings and generators at one moment.

    Attributes:
        values: By name, for messages.
    """

    values: dict[str, Any]

    @classmethod
    def now(cls, device: torch.device) -> ProgramState:
        """Take it; on a GPU its generator, device and stream are a part of it."""
        values: dict[str, Any] = {
            "default dtype": torch.get_default_dtype(),
            "default device": torch.get_default_device(),
            "grad mode": torch.is_grad_enabled(),
            "threads": torch.get_num_threads(),
            "deterministic algorithms": (
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
            ),
            "fp32 matmul precision": torch.get_float32_matmul_precision(),
            "subnormal numbers": _has_subnormals(),
            _RANDOM: torch.get_rng_state(),
        }
        if device.type == "cuda":
            values[f"{_RANDOM} of the GPU"] = torch.cuda.get_rng_state(device)
            values["current device"] = torch.cuda.current_device()
            values["current stream"] = torch.cuda.current_stream(device)
        return cls(values)

    def changed(self, device: torch.device) -> str:
        """Give the names of what is another one now, "" when nothing is."""
        now = ProgramState.now(device).values
        return ", ".join(name for name, was in self.values.items() if not _same(was, now[name]))

    def restore(self) -> None:
        """Set back what can be set, so that one kernel does not spoil the next one's answers."""
        torch.set_default_dtype(self.values["default dtype"])
        torch.set_grad_enabled(self.values["grad mode"])
        torch.set_num_threads(self.values["threads"])
        is_on, warns = self.values["deterministic algorithms"]
        torch.use_deterministic_algorithms(is_on, warn_only=warns)
        torch.set_float32_matmul_precision(self.values["fp32 matmul precision"])
        torch.set_flush_denormal(not self.values["subnormal numbers"])
        torch.set_rng_state(self.values[_RANDOM])


def _same(one: Any, other: Any) -> bool:
    return bool(torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other)


def _has_subnormals() -> bool:
    # there is no question for it but a product
    least = torch.tensor([1e-40], dtype=torch.float32, device="cpu")
    return bool(least.mul(2.0).ne(0.0))
