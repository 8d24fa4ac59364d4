"""RMSNorm with a weight, quantized: one kernel."""
