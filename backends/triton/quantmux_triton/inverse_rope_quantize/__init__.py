"""Inverse rotary embedding and quantization: one kernel."""
