"""Quantizers: plain matrices in, quantized operands out."""
