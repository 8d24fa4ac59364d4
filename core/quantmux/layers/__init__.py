"""nn.Module faces: Linear, quantize_, calibrate, shared_input."""
