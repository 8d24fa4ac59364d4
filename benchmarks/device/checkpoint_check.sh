#!/usr/bin/env bash
# Convert a small random model into every format on the GPU machine and run each checkpoint there.
set -u
work=$(mktemp -d)
python3 - "$work/model" <<'PY'
import json, pathlib, sys
import torch
from safetensors.torch import save_file

root = pathlib.Path(sys.argv[1])
root.mkdir(parents=True)
torch.manual_seed(0)
shapes = {"q_proj": (2048, 2048), "kv_a_proj": (576, 2048), "up_proj": (5632, 2048), "down_proj": (2048, 5632)}
tensors = {
    f"model.layers.{i}.{name}.weight": (torch.randn(shape) * 0.02).bfloat16()
    for i in range(2)
    for name, shape in shapes.items()
}
tensors |= {f"model.layers.{i}.q_proj.bias": torch.randn(2048).bfloat16() for i in range(2)}
save_file(tensors, root / "model.safetensors")
(root / "config.json").write_text(json.dumps({"architectures": ["Random"], "torch_dtype": "bfloat16"}))
PY
status=0
for scheme in fp8_tensor fp8_block128 fp8_block128_pow2 fp8_channel_token fp8_w8a16 nvfp4_w4a16 int8_channel_token; do
  quantmux convert "$work/model" "$work/$scheme" --scheme "$scheme" >/dev/null || status=1
  quantmux run "$work/$scheme" --tokens 1,17,128 || { echo "FAILED: $scheme"; status=1; }
done
rm -rf "$work"
exit $status
