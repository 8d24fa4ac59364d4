"""Linears of an experiment: weights and inputs in copies, bound as quantmux binds them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from quantmux.bench.gate import compare_pipeline
from quantmux.bench.materials import Materials
from quantmux.bench.traffic import work

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from quantmux.bench.gate import Checked
    from quantmux.bench.seeds.stage import Stage
    from quantmux.config import LinearConfig
    from quantmux.ops.spec import Call
    from quantmux.runtime.binding import BoundLinear


@dataclass(slots=True, eq=False)
class LinearCopies:
    """One linear with copies of its weights, and what was bound to them, kept over the Ms.

    Attributes:
        config: The linear.
        stage: Where.
        materials: Its weights and inputs.
    """

    config: LinearConfig
    stage: Stage
    materials: Materials = field(init=False)
    _bound: dict[tuple[LinearConfig, str | None, int], list[BoundLinear]] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        """Make the weights."""
        self.materials = Materials(self.config, self.stage.device, self.stage.effort.seed)

    def bytes_of(self, m: int) -> float:
        """Give the bytes that one call with M rows must move."""
        return work(self.config, m, "pipeline").moved

    def bound(
        self,
        count: int,
        *,
        config: LinearConfig | None = None,
        force: str | None = None,
        turn: int = 0,
    ) -> list[BoundLinear]:
        """Give the linear bound to the first copies.

        Args:
            count: Copies.
            config: Another one for the same weights; None is its own.
            force: A backend or a kernel id that must serve.
            turn: Another number is another binding, to the same weights.
        """
        config = config or self.config
        known = self._bound.setdefault((config, force, turn), [])
        for i in range(len(known), count):
            weights = self.materials.weights_copy(i)
            known.append(self.stage.linear(config, weights, force=force))
        return known[:count]

    def compare(self, bound: BoundLinear, inputs: Sequence[Call], y: Any) -> Checked:
        """Compare y with the reference of what the first input holds now."""
        x: torch.Tensor = inputs[0].args[0]
        pipeline = bound.pipeline_for(x.shape[0])
        return compare_pipeline(pipeline, inputs[0], self.materials, y)
