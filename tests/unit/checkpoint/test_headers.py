import json

import pytest

from quantmux.checkpoint import open_checkpoint
from quantmux.errors import CheckpointError

TENSORS = {"a.weight": ("BF16", (3, 5)), "a.bias": ("F32", (3,)), "b.weight": ("I8", (7,))}


def refuses(path, code):
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path).layers()
    assert caught.value.code == code, str(caught.value)
    return str(caught.value)


def test_gives_names_dtypes_shapes_and_byte_ranges(make):
    checkpoint = open_checkpoint(make(TENSORS))
    info = checkpoint.tensors["a.bias"]
    assert (info.dtype, info.shape, info.nbytes) == ("F32", (3,), 12)
    assert info.begin == checkpoint.tensors["a.weight"].end
    assert list(checkpoint.tensors) == list(TENSORS)


def test_gives_zero_sized_tensors_and_scalars(make):
    checkpoint = open_checkpoint(make({"empty": ("F32", (0, 4)), "one": ("F32", ())}))
    assert checkpoint.tensors["empty"].nbytes == 0
    assert checkpoint.tensors["one"].nbytes == 4


def test_reads_one_file_without_a_config(make):
    root = make(TENSORS)
    (root / "config.json").unlink()
    checkpoint = open_checkpoint(root / "model.safetensors")
    assert checkpoint.layers() == []
    assert set(checkpoint.other) == set(TENSORS)
    assert checkpoint.dtype == "bf16"


def test_reads_shards_through_the_index(make):
    checkpoint = open_checkpoint(make(TENSORS, shards=2))
    assert set(checkpoint.tensors) == set(TENSORS)
    assert len(checkpoint.files) == 2


@pytest.mark.parametrize("keep", [0, 4, 7, 8, 20, -1])
def test_refuses_a_truncated_file_at_every_cut(make, keep):
    root = make(TENSORS)
    file = root / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    assert "truncated" in refuses(root, "truncated")


def test_refuses_a_file_that_is_something_else(make):
    root = make(TENSORS)
    (root / "model.safetensors").write_bytes(b"PK\x03\x04" * 40)
    refuses(root, "bad_header")


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{not json",
        b'{"a": 3}',
        b'{"a": {"dtype": "F32", "shape": [1]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": null}}',
        b'{"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}, "a": 1}',
        b'{"__metadata__": 4, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": ' + b"[" * 9000 + b"1" + b"]" * 9000 + b"}}",
    ],
)
def test_refuses_malformed_headers(make, header):
    root = make({})
    (root / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
    refuses(root, "bad_header")


def test_refuses_an_unknown_dtype_by_name(make):
    header = b'{"a": {"dtype": "F9", "shape": [1], "data_offsets": [0, 4]}}'
    root = make({})
    (root / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
    assert "F9" in refuses(root, "unknown_dtype")


def test_refuses_a_mislabelled_dtype(make):
    root = make({"w": ("F32", (2, 2), b"\0" * 8)})
    text = refuses(root, "size_mismatch")
    assert "16 bytes for F32 [2, 2]" in text
    assert "8 bytes" in text


def test_refuses_holes_and_bytes_nobody_names(make, safetensors_file):
    root = make(TENSORS)
    safetensors_file(root / "model.safetensors", TENSORS, holes=1)
    refuses(root, "bad_offsets")
    safetensors_file(root / "model.safetensors", TENSORS, pad=1)
    refuses(root, "bad_offsets")


def test_refuses_overlapping_tensors(make):
    spec = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}
    header = json.dumps({"a": spec, "b": {**spec, "data_offsets": [2, 6]}}).encode()
    root = make({})
    (root / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"123456")
    assert "b overlaps" in refuses(root, "bad_offsets")


def test_refuses_a_missing_shard(make):
    root = make(TENSORS, shards=3)
    (root / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003" in refuses(root, "missing_shard")


def test_refuses_a_tensor_the_index_promises_and_no_shard_has(make):
    root = make(TENSORS, shards=2)
    index = root / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    data["weight_map"]["c.weight"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(data))
    assert "c.weight" in refuses(root, "index_mismatch")


def test_refuses_a_tensor_in_another_shard_than_the_index_says(make):
    root = make(TENSORS, shards=2)
    index = root / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    data["weight_map"]["a.weight"] = "model-00002-of-00002.safetensors"
    index.write_text(json.dumps(data))
    refuses(root, "index_mismatch")


def test_refuses_a_tensor_in_two_shards(make, safetensors_file):
    root = make(TENSORS, shards=2)
    safetensors_file(
        root / "model-00002-of-00002.safetensors",
        {"a.weight": TENSORS["a.weight"], "a.bias": TENSORS["a.bias"]},
    )
    refuses(root, "duplicate_tensor")


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/x.safetensors"])
def test_refuses_an_index_that_points_outside(make, name):
    root = make(TENSORS, shards=2)
    (root / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    refuses(root, "bad_index")


@pytest.mark.parametrize("text", ["{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_refuses_an_index_without_a_map(make, text):
    root = make(TENSORS, shards=2)
    (root / "model.safetensors.index.json").write_text(text)
    refuses(root, "bad_index")


def test_refuses_several_files_without_an_index(make):
    root = make(TENSORS, shards=2)
    (root / "model.safetensors.index.json").unlink()
    refuses(root, "missing_index")


def test_refuses_paths_with_nothing_to_read(tmp_path):
    refuses(tmp_path / "absent", "not_found")
    refuses(tmp_path, "no_weights")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    assert "pytorch_model.bin" in refuses(tmp_path, "no_weights")
    refuses(tmp_path / "pytorch_model.bin", "not_safetensors")


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_refuses_a_broken_config(make, text):
    root = make(TENSORS)
    (root / "config.json").write_bytes(text.encode("latin-1"))
    assert "config.json" in refuses(root, "bad_config")


def test_takes_the_dtype_from_the_config(make):
    for i, (config, want) in enumerate(
        [
            ({"torch_dtype": "float16"}, "fp16"),
            ({"torch_dtype": None, "dtype": "float32"}, "fp32"),
            ({"torch_dtype": None, "text_config": {"dtype": "float16"}}, "fp16"),
            ({"torch_dtype": "auto"}, "bf16"),
        ]
    ):
        assert open_checkpoint(make(TENSORS, config=config, name=f"m{i}")).dtype == want


def test_refuses_a_dtype_no_linear_runs_in(make):
    root = make(TENSORS, config={"torch_dtype": "float64"})
    with pytest.raises(CheckpointError, match="float64"):
        _ = open_checkpoint(root).dtype


def test_takes_the_quantization_of_a_multimodal_model_from_its_text_config(make):
    tensors = {"l.weight": ("F8_E4M3", (8, 8)), "l.weight_scale": ("F32", ())}
    config = {"text_config": {"quantization_config": {"quant_method": "fp8"}}}
    (entry,) = open_checkpoint(make(tensors, config=config)).layers()
    assert entry.config.scheme.name == "fp8_tensor"


def test_takes_the_usual_index_of_several_and_refuses_to_guess_among_others(make):
    root = make(TENSORS, shards=2)
    index = root / "model.safetensors.index.json"
    (root / "other.safetensors.index.json").write_bytes(index.read_bytes())
    assert len(open_checkpoint(root).tensors) == 3
    index.rename(root / "third.safetensors.index.json")
    refuses(root, "several_indexes")
