"""A kernel whose module cannot be imported."""

raise ImportError("libacme.so: cannot open shared object file")
