"""Run as a program: run a compiler, and write down how it ended and what it took.

Between quantmux and the compiler for two reasons. The kernel counts the memory of whoever starts a
process as that process's own, and quantmux may hold gigabytes of weights: this is some megabytes.
And when quantmux is killed the compilers have to end, which nobody else would see to.

    python supervise.py REPORT PARENT COMMAND…
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def supervise(report: str, parent: int, command: list[str]) -> int:
    """Run a command, write the report, give its exit status; negative is a signal."""
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    with contextlib.suppress(OSError, AttributeError):  # no Linux: then without
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it was killed before that was said
        return 1
    try:
        status = subprocess.run(command, check=False).returncode
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror or error}\n")
        status = 127
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {
        "status": status,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "memory_mib": round(used.ru_maxrss / 1024),  # KiB on Linux
    }
    Path(report).write_text(json.dumps(found), encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(abs(supervise(sys.argv[1], int(sys.argv[2]), sys.argv[3:])))
