"""SiLU·mul and NVFP4 quantization by FlashInfer."""
