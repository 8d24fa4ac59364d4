"""Runs, in processes with TRITON_INTERPRET=1, the tests that need Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quantmux_triton.interpreter import interpreting

HERE = Path(__file__).parent
SHARDS = 2

pytestmark = pytest.mark.skipif(interpreting(), reason="this process interprets already")


def interpreted(*args, **environment):
    """Run pytest in the interpreter; fails with its last lines."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *args],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", **environment},
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = [*done.stdout.splitlines()[-60:], *done.stderr.splitlines()[-20:]]
        pytest.fail("\n".join(lines), pytrace=False)
    return done.stdout


@pytest.mark.timeout(900)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_tests_of_device_code_pass_in_the_interpreter(shard):
    interpreted("-m", "interpreter", HERE, QUANTMUX_TEST_SHARD=f"{shard}/{SHARDS}")
