"""What an op means: specification, reference and cases of every op, and the values between kernels.

torch is imported from here on. ``numerics.py`` is the one definition of the arithmetic; each op's
folder has its mathematics (README.md), its reference on plain PyTorch, and its test cases.
"""
