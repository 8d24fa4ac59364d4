"""Kernels of ``quantize``."""
