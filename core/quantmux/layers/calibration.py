"""Calibration: how large the input of each linear becomes, and the static scales that follow."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from quantmux.config import Scheme
from quantmux.config._base import closest
from quantmux.errors import ConfigError
from quantmux.ops.numerics import nvfp4_global_scale, scale_from_amax

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from quantmux.config import Operand

FORMAT: Final = "quantmux.calibration/1"


class Calibration(Mapping[str, float]):
    """Module name → largest magnitude of its input over all batches.

    Args:
        amax: By module name.
        batches: Number of batches they were seen in.
    """

    def __init__(self, amax: Mapping[str, float], batches: int = 0) -> None:
        self._amax = {name: float(value) for name, value in amax.items()}
        self.batches = batches

    def __getitem__(self, name: str) -> float:
        return self._amax[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._amax)

    def __len__(self) -> int:
        return len(self._amax)

    def __repr__(self) -> str:
        return f"Calibration({len(self)} modules, {self.batches} batches)"

    def input_scale(self, name: str, scheme: Scheme | str) -> torch.Tensor | None:
        """Give the multiplier of static activations, fp32 [1]; None if the scheme has none.

        Raises:
            ConfigError: The module was not reached, or saw only zeros.
        """
        operand = _activation(scheme)
        if operand is None or operand.dynamic:
            return None
        amax = self._seen(name)
        return scale_from_amax(amax, operand.replace(dynamic=True)).reshape(1)

    def input_global_scale(self, name: str, scheme: Scheme | str) -> torch.Tensor | None:
        """Give the multiplier g_a of NVFP4's static activations, fp32 [1]; None if it has none.

        Raises:
            ConfigError: The module was not reached, or saw only zeros.
        """
        operand = _activation(scheme)
        if operand is None or operand.global_scale != "static":
            return None
        return nvfp4_global_scale(self._seen(name)).reshape(1)

    def scales(self, name: str, scheme: Scheme | str) -> dict[str, torch.Tensor]:
        """Give the scales a scheme needs, as the keyword arguments of `Linear.from_float`."""
        given = {
            "input_scale": self.input_scale(name, scheme),
            "input_global_scale": self.input_global_scale(name, scheme),
        }
        return {key: value for key, value in given.items() if value is not None}

    def to_json(self) -> str:
        """Give it as JSON, byte-identical for the same values."""
        data = {"format": FORMAT, "batches": self.batches, "amax": self._amax}
        return json.dumps(data, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Read `to_json`.

        Raises:
            ConfigError: The text is something else.
        """
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise ConfigError(
                    "the file is not a calibration of this version",
                    facts={"need": FORMAT, "found": data["format"]},
                )
            found = cls(data["amax"], int(data["batches"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                "the file is not a calibration",
                facts=[f"{type(error).__name__}: {error}"],
                hint="write one with Calibration.save",
            ) from error
        for name, value in found.items():
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"amax of {name} is no magnitude, found {value}")
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON, or safetensors if the name ends so; whole or not at all."""
        file = Path(path)
        if file.suffix == ".safetensors":
            from safetensors.torch import save

            tensors = {
                name: torch.tensor([value], dtype=torch.float64) for name, value in self.items()
            }
            data = save(tensors, {"format": FORMAT, "batches": str(self.batches)})
        else:
            data = self.to_json().encode()
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as part:
            part.write(data)
        Path(part.name).replace(file)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read what `save` wrote.

        Raises:
            ConfigError: The file cannot be read or is something else.
        """
        file = Path(path)
        try:
            if file.suffix != ".safetensors":
                return cls.from_json(file.read_text(encoding="utf-8"))
            from safetensors import SafetensorError, safe_open

            try:
                with safe_open(file, "pt") as opened:
                    meta = opened.metadata() or {}
                    amax = {name: opened.get_tensor(name).item() for name in opened.keys()}  # noqa: SIM118
            except SafetensorError as error:
                raise ConfigError(f"{file} cannot be read", facts=[str(error)]) from error
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file} cannot be read", facts=[str(error)]) from error
        data = {"format": meta.get("format"), "batches": meta.get("batches", "0"), "amax": amax}
        return cls.from_json(json.dumps(data))

    def _seen(self, name: str) -> torch.Tensor:
        amax = self._amax.get(name)
        if amax is None:
            near = closest(name, self._amax)
            raise ConfigError(
                f"no batch of the calibration reached {name}",
                facts=[f"{len(self)} modules were reached in {self.batches} batches"],
                hint=f'did you mean "{near}"?' if near else "calibrate with batches that reach it",
                code="calibration",
            )
        if amax == 0:
            raise ConfigError(
                f"{name} saw only zeros in {self.batches} batches: no scale follows from them",
                hint="calibrate with other batches, or exclude it",
                code="calibration",
            )
        return torch.tensor([[amax]], dtype=torch.float32)


def _activation(scheme: Scheme | str) -> Operand | None:
    return as_scheme(scheme).activation


def as_scheme(scheme: Scheme | str) -> Scheme:
    """Give a scheme; the name of a preset is accepted."""
    return Scheme.model_validate(scheme) if isinstance(scheme, str) else scheme
