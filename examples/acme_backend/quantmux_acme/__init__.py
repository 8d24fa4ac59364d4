"""An example backend of quantmux. Importing it imports nothing else."""
