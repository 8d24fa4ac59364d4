"""calibrate: run sample batches and note how large the input of every linear becomes."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from quantmux.config import Scheme
from quantmux.config._base import closest
from quantmux.config.patterns import check_pattern, matches
from quantmux.errors import ConfigError, InputError
from quantmux.ops.numerics import nvfp4_global_scale, scale_from_amax

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator

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


def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    include: str | Iterable[str] | None = None,
    schemes: Scheme | str | Mapping[str, Scheme | str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Calibration:
    """Run the model on sample batches and note the largest input of every nn.Linear.

    The model runs in eval mode without gradients; its training flags are put back.

    Args:
        model: Not changed.
        batches: Each a tensor, a tuple or list (``model(*batch)``) or a mapping
            (``model(**batch)``).
        include: Patterns of module names (globs, or ``re:``); all linears when None.
        schemes: Only linears whose scheme needs a static scale are watched; a scheme for all,
            or patterns → schemes. All linears when None.
        progress: Called with the number of batches done.

    Raises:
        ConfigError: No batch, no linear to watch, or a linear that no batch reached.
        InputError: An input held NaN or Inf; names the module.
    """
    watched = _watched(model, include, schemes)
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
    missed = [name for name in watched if name not in found]
    if missed:
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
) -> dict[str, nn.Linear]:
    patterns = (include,) if isinstance(include, str) else include
    patterns = None if patterns is None else tuple(check_pattern(p) for p in patterns)
    found: dict[str, nn.Linear] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        if patterns is not None and not any(matches(p, name) for p in patterns):
            continue
        if _needs_scale(name, schemes):
            found[name] = module
    if not found:
        raise ConfigError(
            "calibrate found no linear to watch",
            facts=[f"include = {patterns}", f"schemes = {schemes}"],
            hint="names are those of model.named_modules()",
            code="calibration",
        )
    return found


def _needs_scale(name: str, schemes: Scheme | str | Mapping[str, Scheme | str] | None) -> bool:
    if schemes is None:
        return True
    if isinstance(schemes, Mapping):
        chosen = next((s for pattern, s in schemes.items() if matches(pattern, name)), None)
        return chosen is not None and _scheme(chosen).needs_static_activation_scale
    return _scheme(schemes).needs_static_activation_scale


@contextmanager
def _hooks(watched: Mapping[str, nn.Linear], amax: dict[str, torch.Tensor]) -> Iterator[None]:
    handles = [
        module.register_forward_pre_hook(_observer(name, amax)) for name, module in watched.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _observer(name: str, amax: dict[str, torch.Tensor]) -> Callable[[nn.Module, Any], None]:
    def observe(_: nn.Module, args: Any) -> None:
        x = args[0]
        if not x.numel():
            return
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


def _activation(scheme: Scheme | str) -> Operand | None:
    return _scheme(scheme).activation


def _scheme(scheme: Scheme | str) -> Scheme:
    return Scheme.model_validate(scheme) if isinstance(scheme, str) else scheme
