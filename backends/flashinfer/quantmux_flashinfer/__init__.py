"""Kernels of the FlashInfer library, described so that the dispatcher may take them."""
