"""What a pipeline computes, as a config: the one whose reference it must agree with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux.config.layers import QuantizeConfig
from quantmux.dispatch.tier import Tier

if TYPE_CHECKING:
    from quantmux.config import LinearConfig
    from quantmux.dispatch.pipeline import Pipeline


def reference_config(config: LinearConfig, pipeline: Pipeline) -> LinearConfig:
    """Give the config whose reference a pipeline must agree with.

    A weight-only kernel leaves the activation in 16 bit; a producer may make scales that are
    stricter (powers of two) than was asked.
    """
    scheme = config.scheme
    if scheme.activation is None:
        return config
    if pipeline.tier is Tier.WEIGHT_ONLY:
        return config.replace(scheme=scheme.replace(activation=None))
    made = pipeline.steps[0].config
    if isinstance(made, QuantizeConfig) and made.operand != scheme.activation:
        return config.replace(scheme=scheme.replace(activation=made.operand))
    return config
