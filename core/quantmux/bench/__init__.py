"""The one bench harness: pipelines and peers on one device, in one run, under one protocol.

``quantmux bench`` is its face; `run.run_bench` its entry. docs/benchmarking.md says what is done
and how to read it.
"""
