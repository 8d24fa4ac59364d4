"""Runs, in processes with TRITON_INTERPRET=1, what needs Triton's interpreter.

The conformance suite without a share left out, which takes half an hour::

    TRITON_INTERPRET=1 OMP_NUM_THREADS=1 pytest -n 2 --pyargs quantmux.testing.suite \\
        --backend triton --device cpu --small
"""

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from quantmux_triton.interpreter import interpreting
from quantmux_triton.plugin import quantmux_kernels

HERE = Path(__file__).parent
SHARDS = 2
ONE_OF = 6
"""Of the suite's cells one in so many runs here, the same in every run: four minutes of a CPU."""

INSTALLED = any(e.name == "quantmux" for e in entry_points(group="pytest11"))
SUITE = () if INSTALLED else ("-p", "quantmux.testing.plugin")
"""The suite's pytest plugin by name, for an installation that is older than its entry point."""

CHECKS = ("numbers", "bounds", "memory", "strides", "poisoned_scales", "surroundings", "prepare")
"""What an interpreter can tell. Sources and variants have tests of their own."""

pytestmark = pytest.mark.skipif(interpreting(), reason="this process interprets already")


def interpreted(*args, **environment):
    """Run pytest in the interpreter; fails with its last lines, else gives what it printed."""
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    fixed = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *args],
        env={**os.environ, **fixed, **environment},
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
    interpreted("-m", "interpreter", HERE, TRITON_TESTS_SHARD=f"{shard}/{SHARDS}")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_kernels_agree_with_the_definition_in_the_interpreter(shard):
    said = interpreted(
        *("-p", "thinned", *SUITE),
        *("--pyargs", "quantmux.testing.suite", "--backend", "triton", "--device", "cpu"),
        *("--small", *(word for check in CHECKS for word in ("--check", check))),
        TRITON_TESTS_KEEP=str(ONE_OF),
        TRITON_TESTS_SHARD=f"{shard}/{SHARDS}",
    )
    rows = [line.split() for line in said.splitlines() if line.startswith("triton/")]
    assert {row[0] for row in rows} == {spec.id for spec in quantmux_kernels()}
    # nothing is left out for a reason of its own, and every kernel was run
    assert all(int(agrees) > 0 and int(not_here) == 0 for _, agrees, _, not_here, *_ in rows)
