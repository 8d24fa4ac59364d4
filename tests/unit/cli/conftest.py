"""A small model on disk, its quantized checkpoints, and the command line as a function."""

import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from quantmux.cli import main
from quantmux.registry.default import set_default_registry

LINEARS = {
    "self_attn.q_proj": (64, 128),
    "self_attn.o_proj": (128, 128),
    "mlp.down_proj": (128, 192),
}


@dataclass(frozen=True)
class Answer:
    """What a command gave."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def cli(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("QUANTMUX_PLUGINS", raising=False)

    def run(*args):
        code = main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert "Traceback" not in out
        return Answer(code, out, err)

    yield run
    set_default_registry(None)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """An unquantized model of two layers with an embedding, bf16."""
    root = tmp_path_factory.mktemp("model")
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for i in range(2):
        for name, (n, k) in LINEARS.items():
            weight = torch.randn(n, k, generator=generator) * 0.05
            tensors[f"model.layers.{i}.{name}.weight"] = weight.bfloat16()
        tensors[f"model.layers.{i}.mlp.down_proj.bias"] = torch.randn(
            128, generator=generator
        ).bfloat16()
    tensors["model.embed_tokens.weight"] = torch.randn(32, 128, generator=generator).bfloat16()
    save_file(tensors, root / "model.safetensors")
    config = {"model_type": "llama", "torch_dtype": "bfloat16"}
    (root / "config.json").write_text(json.dumps(config))
    return root


@pytest.fixture(scope="session")
def quantized(model, tmp_path_factory):
    """Give the checkpoint of a scheme, made once."""
    from quantmux.checkpoint import convert

    made = {}

    def make(scheme):
        if scheme not in made:
            out = tmp_path_factory.mktemp(scheme) / "checkpoint"
            names = [f"model.layers.{i}.{name}" for i in range(2) for name in LINEARS]
            convert(model, out, scheme, calibration=dict.fromkeys(names, 4.0 / 2688))
            made[scheme] = out
        return made[scheme]

    return make


@pytest.fixture
def policy(tmp_path):
    """Give a policy file with a text under the schema line."""

    def write(text):
        file = tmp_path / "plugins.toml"
        file.write_text(f"schema = 1\n{text}\n")
        return file

    return write


@pytest.fixture
def linears():
    """Name within a layer → (N, K)."""
    return LINEARS


@pytest.fixture
def acme():
    """The module acme.py beside this file: tests are no package to import it from."""
    file = Path(__file__).with_name("acme.py")
    spec = importlib.util.spec_from_file_location("quantmux_test_acme", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop(spec.name)
    sys.modules.pop(module.MODULE, None)
