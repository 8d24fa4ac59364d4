"""The five results that quantmux grew from, each timed as it was, as the seed did it, and as ours.

``quantmux bench seeds`` is its face, `run.run_seeds` its entry, `experiment` what an experiment is.
docs/seeds.md says what each of them times and how to read it.
"""
