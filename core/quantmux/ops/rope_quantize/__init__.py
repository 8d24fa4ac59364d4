"""rope_quantize: apply RoPE to query or key heads and quantize with one given scale."""
