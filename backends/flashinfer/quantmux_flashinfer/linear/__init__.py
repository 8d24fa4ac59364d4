"""FlashInfer's matrix products as consumers of the op linear."""
