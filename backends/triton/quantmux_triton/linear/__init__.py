"""Quantized linears: GEMMs and what they need."""
