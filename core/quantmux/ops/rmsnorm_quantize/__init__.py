"""rmsnorm_quantize: RMSNorm with a weight, quantized in one pass."""
