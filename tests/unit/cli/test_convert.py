import sys

import pytest
import torch
from torch import nn

from quantmux.checkpoint import load_linear, open_checkpoint
from quantmux.cli import _calibration


def test_writes_a_checkpoint_that_reads_back(cli, model, tmp_path):
    out = tmp_path / "out"
    answer = cli("convert", model, out, "--scheme", "fp8_channel_token", "--json")
    data = answer.json
    assert answer.code == 0
    assert set(data) >= {"path", "format", "scheme", "converted", "skipped", "notes"}
    assert len(data["converted"]) == 6
    assert [entry.config.scheme.name for entry in open_checkpoint(out).layers()] == [
        "fp8_channel_token"
    ] * 6


def test_text_says_what_was_left_alone_and_what_to_do_next(cli, model, tmp_path):
    out = tmp_path / "out"
    text = cli("convert", model, out, "-s", "fp8_block128", "--include", "*.down_proj").out
    assert "2 linears" in text
    assert "left as they were: 5" in text
    assert f"quantmux run {out}" in text.replace("\n", "")


def test_refuses_to_overwrite_without_force(cli, model, tmp_path):
    out = tmp_path / "out"
    assert cli("convert", model, out, "-s", "fp8_tensor").code == 0
    before = sorted(p.name for p in out.iterdir())
    answer = cli("convert", model, out, "-s", "nvfp4_w4a16", "--json")
    assert answer.code == 2
    assert answer.json["error"]["code"] == "exists"
    assert "--force" in answer.err
    assert sorted(p.name for p in out.iterdir()) == before
    assert cli("convert", model, out, "-s", "nvfp4_w4a16", "--force").code == 0


@pytest.mark.parametrize("scheme", ["nvfp4", "fp8_tensor_static"])
def test_asks_for_calibration_where_the_scheme_needs_it(cli, model, tmp_path, scheme):
    answer = cli("convert", model, tmp_path / "out", "-s", scheme, "--json")
    assert answer.code == 2
    assert answer.json["error"]["code"] == "needs_calibration"
    assert "--calibrate" in answer.err
    assert not (tmp_path / "out").exists()


def test_refuses_calibration_where_nothing_needs_it(cli, model, tmp_path):
    text = tmp_path / "text"
    text.write_text("a line\n")
    answer = cli("convert", model, tmp_path / "out", "-s", "fp8_tensor", "--calibrate", text)
    assert answer.code == 2
    assert "leave --calibrate out" in answer.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--scheme", "fp8_blok128"), 'did you mean "fp8_block128"?'),
        (("--scheme", "fp8_block128", "--format", "modelopd"), 'did you mean "modelopt"?'),
        (("--scheme", "int8_channel_token", "--format", "deepseek_fp8"), "cannot be stored"),
        (("--scheme", "fp8_tensor", "--include", "nothing"), "no linear is left"),
    ],
)
def test_refuses_a_wrong_request_and_writes_nothing(cli, model, tmp_path, args, message):
    answer = cli("convert", model, tmp_path / "out", *args)
    assert answer.code == 2
    assert message in answer.err
    assert list(tmp_path.iterdir()) == []


def test_refuses_a_model_that_is_quantized_already(cli, quantized, tmp_path):
    answer = cli("convert", quantized("fp8_block128"), tmp_path / "out", "-s", "fp8_tensor")
    assert answer.code == 1
    assert "quantized already" in answer.err


class Network(nn.Module):
    """The linears of the model on disk, under names without the base model's prefix."""

    base_model_prefix = "model"

    def __init__(self, linears):
        super().__init__()
        self.linears = linears
        self.layers = nn.ModuleList()
        for _ in range(2):
            layer = nn.Module()
            for name, (n, k) in linears.items():
                room, _, leaf = name.partition(".")
                if not hasattr(layer, room):
                    layer.add_module(room, nn.Module())
                getattr(layer, room).add_module(leaf, nn.Linear(k, n))
            self.layers.append(layer)

    def forward(self, size):
        for layer in self.layers:
            for name in self.linears:
                linear = layer.get_submodule(name)
                linear(torch.full((1, linear.in_features), float(size)))


def tokenizer(sample, **_):
    return {"size": len(sample)}


@pytest.fixture
def network(monkeypatch, linears):
    monkeypatch.setattr(_calibration, "_load", lambda _: (Network(linears), tokenizer))


def test_a_tokenizer_made_of_no_files_is_refused(cli, model, linears, tmp_path, monkeypatch):
    def empty(_sample, **_):
        return {"input_ids": torch.zeros((1, 0), dtype=torch.int64)}

    monkeypatch.setattr(_calibration, "_load", lambda _: (Network(linears), empty))
    text, out = tmp_path / "text", tmp_path / "out"
    text.write_text("four\n")
    answer = cli("convert", model, out, "-s", "fp8_tensor_static", "--calibrate", text)
    assert answer.code == 1
    assert "no usable tokenizer" in answer.err
    assert not out.exists()


@pytest.mark.usefixtures("network")
def test_calibrates_over_the_lines_of_a_text(cli, model, tmp_path):
    text, out = tmp_path / "text", tmp_path / "out"
    text.write_text("four\n\n  seventeen letters \n")
    answer = cli("convert", model, out, "-s", "fp8_tensor_static", "--calibrate", text)
    assert answer.code == 0, answer.err
    checkpoint = open_checkpoint(out)
    for entry in checkpoint.layers():
        scale = load_linear(checkpoint, entry).input_scale
        assert scale is not None
        assert float(scale) == pytest.approx(17 / 448, rel=1e-6)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot be read"), ("\n  \n", "no line with text"), (b"\xff\xfe", "cannot be read")],
    ids=["missing", "empty", "not-text"],
)
def test_refuses_a_calibration_text_without_samples(cli, model, tmp_path, text, message):
    file = tmp_path / "text"
    if isinstance(text, bytes):
        file.write_bytes(text)
    elif text is not None:
        file.write_text(text)
    answer = cli("convert", model, tmp_path / "out", "-s", "nvfp4", "--calibrate", file)
    assert answer.code == 2
    assert message in answer.err
    assert not (tmp_path / "out").exists()


def test_names_the_extra_when_transformers_is_missing(cli, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    file = tmp_path / "text"
    file.write_text("a line\n")
    answer = cli("convert", model, tmp_path / "out", "-s", "nvfp4", "--calibrate", file)
    assert answer.code == 2
    assert "quantmux[demo]" in answer.err
