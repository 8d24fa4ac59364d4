"""RoPE and FP8 quantization by FlashInfer."""
