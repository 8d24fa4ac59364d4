"""A checkpoint of DeepSeek-V3's shapes, headers only: sparse files that hold no data.

Shapes are those of the published model: 61 layers, hidden 7168, 256 routed experts and one shared
expert from layer 3 on, block FP8 with fp32 scales over 128x128 blocks.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

HIDDEN = 7168
LAYERS = 61
DENSE_LAYERS = 3
EXPERTS = 256

ATTENTION = {
    "self_attn.q_a_proj": (1536, HIDDEN),
    "self_attn.q_b_proj": (24576, 1536),
    "self_attn.kv_a_proj_with_mqa": (576, HIDDEN),
    "self_attn.kv_b_proj": (32768, 512),
    "self_attn.o_proj": (HIDDEN, 16384),
}


def _mlp(prefix: str, inner: int) -> dict[str, tuple[int, int]]:
    return {
        f"{prefix}.gate_proj": (inner, HIDDEN),
        f"{prefix}.up_proj": (inner, HIDDEN),
        f"{prefix}.down_proj": (HIDDEN, inner),
    }


def layer_linears(layer: int) -> dict[str, tuple[int, int]]:
    """Give name → (N, K) of every quantized linear of one layer."""
    found = dict(ATTENTION)
    if layer < DENSE_LAYERS:
        found |= _mlp("mlp", 18432)
    else:
        found |= _mlp("mlp.shared_experts", 2048)
        for expert in range(EXPERTS):
            found |= _mlp(f"mlp.experts.{expert}", 2048)
    return {f"model.layers.{layer}.{name}": shape for name, shape in found.items()}


def write(folder: Path, layers: int = LAYERS) -> int:
    """Write config.json, one sparse shard per layer and the index; give the number of linears."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "hidden_size": HIDDEN,
        "num_hidden_layers": layers,
        "torch_dtype": "bfloat16",
        "quantization_config": {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [128, 128],
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    weight_map: dict[str, str] = {}
    count = total = 0
    for layer in range(layers):
        file = f"model-{layer + 1:05d}-of-{layers:05d}.safetensors"
        header: dict[str, object] = {}
        offset = 0
        for name, (n, k) in layer_linears(layer).items():
            count += 1
            scales = (-(-n // 128), -(-k // 128))
            for suffix, dtype, shape, size in (
                ("weight", "F8_E4M3", (n, k), n * k),
                ("weight_scale_inv", "F32", scales, scales[0] * scales[1] * 4),
            ):
                header[f"{name}.{suffix}"] = {
                    "dtype": dtype,
                    "shape": shape,
                    "data_offsets": [offset, offset + size],
                }
                weight_map[f"{name}.{suffix}"] = file
                offset += size
        for name in ("input_layernorm", "post_attention_layernorm"):
            key = f"model.layers.{layer}.{name}.weight"
            size = 2 * HIDDEN
            header[key] = {
                "dtype": "BF16",
                "shape": (HIDDEN,),
                "data_offsets": [offset, offset + size],
            }
            weight_map[key] = file
            offset += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / file).open("wb") as out:
            out.write(struct.pack("<Q", len(text)))
            out.write(text)
            out.truncate(8 + len(text) + offset)
        total += offset
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return count
