"""The decoder step: layers of known models with random weights, timed from end to end."""
