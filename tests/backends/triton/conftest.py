"""Modules with ``pytestmark = pytest.mark.interpreter`` run in Triton's interpreter.

Triton reads TRITON_INTERPRET when a function is decorated, so a process either interprets or
compiles. Without the variable these tests are left out here and `test_interpreter_suite.py` runs
them, in processes that have it; with it, only they run.
"""

import os

import pytest

from quantmux_triton.interpreter import interpreting

SHARD = "TRITON_TESTS_SHARD"
"""``i/n``: take every n-th test from the i-th, so that n processes share the work."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    inside = [i for i in items if i.get_closest_marker("interpreter")]
    if interpreting():
        here = [i for i in items if i.path.parent == config.rootpath / "tests/backends/triton"]
        left_out = {id(i) for i in here} - {id(i) for i in inside}
        first, _, step = os.environ.get(SHARD, "0/1").partition("/")
        left_out |= {id(i) for n, i in enumerate(inside) if n % int(step) != int(first)}
    elif len(inside) == len(items):
        # asked for by name: say what is wanted instead of "no tests ran"
        for item in inside:
            item.add_marker(pytest.mark.skip(reason="needs TRITON_INTERPRET=1"))
        return
    else:
        left_out = {id(i) for i in inside}
    if left_out:
        config.hook.pytest_deselected(items=[i for i in items if id(i) in left_out])
        items[:] = [i for i in items if id(i) not in left_out]
