"""Peers: other people's kernels under the same protocol, for comparison only."""
