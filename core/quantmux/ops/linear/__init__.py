"""linear: ``y = x · Wᵀ + bias`` with quantized weights, and activations as the scheme says."""
