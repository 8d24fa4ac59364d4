"""relayout: a quantized matrix from one layout to another; no number changes."""
