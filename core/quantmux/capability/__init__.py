"""What can be done: arch sets, device profiles, capabilities, rejections, evidence, the matrix.

Imports config only.
"""
