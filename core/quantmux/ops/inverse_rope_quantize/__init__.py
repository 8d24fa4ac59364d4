"""inverse_rope_quantize: undo RoPE on attention output and quantize per head group."""
