"""Kernels that are right, and for each of them kernels with one fault that a suite must find."""
