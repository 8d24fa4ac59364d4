"""Scales moved into the swizzled layout by FlashInfer."""
