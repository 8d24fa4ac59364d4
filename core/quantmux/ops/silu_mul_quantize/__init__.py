"""silu_mul_quantize: ``silu(gate) · up`` and quantization in one step."""
