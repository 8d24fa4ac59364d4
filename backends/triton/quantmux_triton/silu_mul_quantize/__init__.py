"""SiLU of the gate times up, quantized: one kernel."""
