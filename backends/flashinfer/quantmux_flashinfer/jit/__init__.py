"""The modules that FlashInfer compiles: what they need, where they are, making them."""
