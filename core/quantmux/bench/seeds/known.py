"""The experiments, by name; each is imported when it is run."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from quantmux.config._base import closest
from quantmux.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from quantmux.bench.seeds.experiment import Experiment

_HERE: Final = "quantmux.bench.seeds"

EXPERIMENTS: Final[dict[str, str]] = {
    "placeholder": f"{_HERE}.placeholder:PlaceholderScale",
    "padded_weights": f"{_HERE}.padded_weights:PaddedWeights",
    "silu_mul": f"{_HERE}.silu_mul:SiluMul",
    "padded_nvfp4": f"{_HERE}.padded_nvfp4:PaddedNvfp4",
    "padded_nvfp4_gemm": f"{_HERE}.padded_nvfp4_gemm:PaddedNvfp4Gemm",
    "inverse_rope": f"{_HERE}.inverse_rope:InverseRope",
}
"""Name → ``module:class``, in the order in which they are run and shown."""


def experiments_of(names: Sequence[str] = ()) -> tuple[Experiment, ...]:
    """Give the experiments of some names, all without any, in their order.

    Raises:
        ConfigError: There is no experiment of that name.
    """
    for name in names:
        if name not in EXPERIMENTS:
            near = closest(name, EXPERIMENTS)
            raise ConfigError(
                f'there is no experiment "{name}"',
                facts=["experiments: " + " ".join(EXPERIMENTS)],
                hint=f'did you mean "{near}"?' if near else None,
                code="usage",
            )
    return tuple(_load(path) for name, path in EXPERIMENTS.items() if not names or name in names)


def headline_of(name: str, told: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give the facts of the cases that the means of an experiment are of.

    Args:
        name: Of the experiment.
        told: What a result has of it; one from before there was a headline has none.
    """
    if "headline" in told:
        found: Mapping[str, Any] = told["headline"]
        return found
    return _load(EXPERIMENTS[name]).about.headline if name in EXPERIMENTS else {}


def _load(path: str) -> Experiment:
    module, _, name = path.partition(":")
    made: Experiment = getattr(import_module(module), name)()
    return made
