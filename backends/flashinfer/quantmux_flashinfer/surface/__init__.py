"""What a release of FlashInfer offers, read from its files without importing it."""
