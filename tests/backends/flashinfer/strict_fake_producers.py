"""What stands in for FlashInfer's compiled producers."""

COMPILED = {}
REPLACED = {}
