"""DeepGEMM as a backend of quantmux. Importing it imports nothing else."""
