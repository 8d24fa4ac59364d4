"""Kernels written on CUTLASS, compiled from source for the GPU at hand."""
