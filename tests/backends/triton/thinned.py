"""A pytest plugin: a part of the conformance suite that is the same in every run.

The whole suite takes half an hour in Triton's interpreter. ``TRITON_TESTS_KEEP`` says which share
of the cells of a kernel and check stays, ``TRITON_TESTS_SHARD=i/n`` which of them this process
runs. At least two cells of every kernel and check stay.
"""

import os
from collections import defaultdict
from zlib import crc32

AT_LEAST = 2


def pytest_collection_modifyitems(config, items):
    one_of = int(os.environ.get("TRITON_TESTS_KEEP", "1"))
    first, _, step = os.environ.get("TRITON_TESTS_SHARD", "0/1").partition("/")
    groups = defaultdict(list)
    for item in items:
        # the name goes on with the kernel, the check, and what the cell is about in brackets
        groups[item.name.partition("[")[2].partition("[")[0]].append(item)
    kept = []
    for name in sorted(groups):
        # spread over the group, and not with the period of any of its parameters
        group = sorted(groups[name], key=lambda item: crc32(item.name.encode()))
        kept += group[: max(AT_LEAST, len(group) // one_of)]
    mine = {id(item) for n, item in enumerate(kept) if n % int(step) == int(first)}
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in mine])
    items[:] = [item for item in items if id(item) in mine]
