"""How good selection is: what it takes against the best of the same run, and against one backend.

`grid` says which cells, `measure` times every pipeline that could be taken, `judge` compares what
the tables choose with what this run found, `picture` draws it.
"""
