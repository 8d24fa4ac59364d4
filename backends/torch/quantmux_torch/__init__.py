"""Kernels made of PyTorch's own operations: the floor that serves every op on any device.

``plugin`` is what discovery imports; it imports neither torch nor the modules of the kernels.
"""
