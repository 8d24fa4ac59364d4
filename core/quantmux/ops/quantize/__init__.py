"""quantize: a plain matrix into an operand and a layout."""
