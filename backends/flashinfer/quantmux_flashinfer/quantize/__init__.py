"""FlashInfer's NVFP4 quantizers."""
