"""Linears: what the host does around the compiled products."""
