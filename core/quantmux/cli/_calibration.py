"""Activation scales for ``convert``: the model runs over a text file, with transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from quantmux.checkpoint import open_checkpoint
from quantmux.cli._progress import counted_bar
from quantmux.errors import CheckpointError, ConfigError
from quantmux.layers.calibrate import calibrate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import torch
    from rich.progress import Progress

    from quantmux.config import Scheme
    from quantmux.layers.calibrate import Calibration

_MAX_TOKENS: Final = 512


def calibrated(model: Path, scheme: Scheme, text: Path) -> dict[str, torch.Tensor]:
    """Run a model over a text and give the activation multiplier of every linear.

    Every line is a batch of its own: padding would be seen as input.

    Args:
        model: Folder of the model, with its tokenizer.
        scheme: One with static activation scales.
        text: UTF-8, one sample a line; empty lines are skipped.

    Returns:
        fp32 [1] by the name that the checkpoint has for the module.

    Raises:
        ConfigError: The text is empty, or transformers is not installed.
        CheckpointError: transformers cannot load the model or its tokenizer.
    """
    samples = _lines(text)
    names = _linear_names(model)
    network, tokenizer = _load(model)
    with _progress(len(samples)) as progress:
        task = progress.task_ids[0]
        found = calibrate(
            network,
            _batches(samples, tokenizer),
            schemes=scheme,
            progress=lambda done: progress.update(task, completed=done),
        )
    prefix = getattr(network, "base_model_prefix", "")
    return _scales(found, scheme, names, prefix)


def _lines(text: Path) -> list[str]:
    try:
        lines = text.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"calibration text {text} cannot be read",
            facts=[getattr(error, "strerror", None) or str(error)],
            hint="give a UTF-8 text file with one sample a line",
            code="calibration",
        ) from None
    samples = [line.strip() for line in lines if line.strip()]
    if not samples:
        raise ConfigError(
            f"calibration text {text} has no line with text",
            hint="give one sample a line; some dozens are usual",
            code="calibration",
        )
    return samples


def _linear_names(model: Path) -> set[str]:
    suffix = ".weight"
    tensors = open_checkpoint(model).tensors
    return {name.removesuffix(suffix) for name in tensors if name.endswith(suffix)}


def _load(model: Path) -> tuple[Any, Any]:
    try:
        import transformers
    except ImportError:
        raise ConfigError(
            "calibrating runs the model, which needs transformers",
            facts=["transformers is not installed"],
            hint="pip install 'quantmux[demo]', or calibrate in Python: quantmux.calibrate",
            code="needs_package",
        ) from None
    logs: Any = transformers.logging
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        network = transformers.AutoModel.from_pretrained(model, local_files_only=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(model, local_files_only=True)
    except Exception as error:
        # a foreign library: what it raises for a folder it does not like has no common type
        first = (str(error).splitlines() or [""])[0]
        raise CheckpointError(
            f"transformers cannot load {model}",
            facts=[f"{type(error).__name__}: {first}"],
            hint="the folder needs the model's config.json and tokenizer files;\n"
            "or calibrate in Python: quantmux.calibrate(model, batches)",
            code="calibration",
        ) from error
    return network, tokenizer


def _batches(samples: Iterable[str], tokenizer: Any) -> Iterator[dict[str, Any]]:
    limit = min(getattr(tokenizer, "model_max_length", None) or _MAX_TOKENS, _MAX_TOKENS)
    for sample in samples:
        encoded = dict(tokenizer(sample, truncation=True, max_length=limit, return_tensors="pt"))
        tokens = encoded.get("input_ids")
        if (
            tokens is not None and not tokens.numel()
        ):  # transformers makes an empty tokenizer of no files
            raise CheckpointError(
                "the model's folder has no usable tokenizer",
                facts=[f"a line of {len(sample)} characters gives no token"],
                hint="put tokenizer.json (or vocab.txt) beside config.json;\n"
                "or calibrate in Python: quantmux.calibrate(model, batches)",
                code="calibration",
            )
        yield encoded


def _scales(
    found: Calibration, scheme: Scheme, names: set[str], prefix: str
) -> dict[str, torch.Tensor]:
    """Give the scales under the checkpoint's names, which may carry the base model's prefix."""
    scales: dict[str, torch.Tensor] = {}
    for module in found:
        candidates = (module, f"{prefix}.{module}")
        name = next((c for c in candidates if c in names), None)
        if name is not None:
            (scales[name],) = found.scales(module, scheme).values()
    return scales


def _progress(total: int) -> Progress:
    progress = counted_bar("calibrate")
    progress.add_task("", total=total)
    return progress
