"""An engine of few words: what a cell does is its check, and every run leaves a line in a file."""

# ruff: noqa: ARG001 - the arguments are the engine's

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from quantmux.errors import LaunchError
from quantmux.registry.hookspecs import hookimpl
from quantmux.registry.kernel_spec import BackendInfo, KernelSpec
from quantmux.registry.manager import Registry
from quantmux.testing.cell import Cell, Outcome, Verdict

AGREES = Outcome(Verdict.AGREES, error=0.25)
CURRENT = [""]
CELLS = int(os.environ.get("TEST_CELLS", "3"))


def _raises():
    raise RuntimeError("no such luck")


def _exits_politely():
    raise SystemExit(3)


def _hangs():
    while True:
        time.sleep(0.01)


def _hangs_in_c():
    # PyDLL keeps the interpreter's lock: no Python of this process runs any more
    while True:  # a signal wakes it
        ctypes.PyDLL(None).sleep(600)


def _crashes():
    ctypes.string_at(0)


def _takes_all_memory():
    held = []
    while True:
        held.append(bytearray(b"x") * (1 << 24))
        time.sleep(0.01)


def _prints():
    for stream in (1, 2):
        os.write(stream, b'{"end": "garbage"}\n\xff\xfe' * 50_000)
    sys.stdout.write("garbage without an end")
    return AGREES


def _channel():
    own = [int(fd.name) for fd in Path("/proc/self/fd").iterdir() if _is_socket(fd)]
    return own[0]


def _is_socket(fd):
    try:
        return str(fd.readlink()).startswith("socket:")
    except OSError:
        return False


def _writes_rubbish():
    os.write(_channel(), b"rubbish\n")
    _hangs()


def _prints_without_end():
    noise = b"\xff\xfe" * 50_000
    while True:
        os.write(1, noise)


def _says_half_an_answer():
    os.write(_channel(), b'{"end": 1}\n{"end": "?", "outcome": 5}\n')
    _hangs()


def _answers_with_nonsense():
    os.write(_channel(), json.dumps({"end": CURRENT[0], "outcome": 5}).encode() + b"\n")
    _hangs()


def _nests():
    os.write(_channel(), b"[" * 200_000 + b"\n")
    _hangs()


def _floods_the_channel():
    noise = b"x" * 65536
    while True:
        os.write(_channel(), noise)


def _closes_everything():
    os.closerange(3, 256)
    return AGREES


def _forks():
    if os.fork() == 0:
        return Outcome(Verdict.FAILS, "said by the child")
    return AGREES


def _leaves_a_child():
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    with Path(os.environ["TEST_LOG"]).open("a") as log:
        log.write(f"child of a kernel\t{child}\n")
    os._exit(7)


def _loses_the_gpu():
    return Outcome(Verdict.FAILS, "an illegal memory access", "context_poisoned")


def _raises_a_lost_gpu():
    raise LaunchError("an illegal memory access", context_poisoned=True)


def _breaks_the_gpu_unnoticed():
    def synchronize():
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    cuda = SimpleNamespace(is_initialized=lambda: True, synchronize=synchronize)
    sys.modules["torch"] = SimpleNamespace(cuda=cuda)
    return AGREES


CHECKS = {
    "breaks_the_gpu_unnoticed": _breaks_the_gpu_unnoticed,
    "says_nothing": lambda: None,
    "agrees": lambda: AGREES,
    "refuses": lambda: Outcome(Verdict.REFUSES, "arch", "arch"),
    "not_here": lambda: Outcome(Verdict.NOT_HERE, "no GPU", "arch"),
    "fails": lambda: Outcome(Verdict.FAILS, "wrong numbers", "numbers", error=float("inf")),
    "raises": _raises,
    "exits_politely": _exits_politely,
    "exits": lambda: os._exit(3),
    "hangs": _hangs,
    "hangs_in_c": _hangs_in_c,
    "crashes": _crashes,
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "takes_all_memory": _takes_all_memory,
    "prints": _prints,
    "writes_rubbish": _writes_rubbish,
    "prints_without_end": _prints_without_end,
    "says_half_an_answer": _says_half_an_answer,
    "answers_with_nonsense": _answers_with_nonsense,
    "nests": _nests,
    "floods_the_channel": _floods_the_channel,
    "closes_everything": _closes_everything,
    "forks": _forks,
    "leaves_a_child": _leaves_a_child,
    "loses_the_gpu": _loses_the_gpu,
    "raises_a_lost_gpu": _raises_a_lost_gpu,
    "slow": lambda: time.sleep(0.2) or AGREES,
    "compiles": lambda: Outcome(
        Verdict.AGREES, f"TRITON_INTERPRET is {os.environ.get('TRITON_INTERPRET')}"
    ),
}


def cells(registry, device, *, backend=None, ops=(), kernels=(), checks=(), small_only=False):
    """Every kernel has a cell that agrees before, and some after, the one of each check."""
    asked = os.environ.get("TEST_CHECKS", "agrees").split()
    return tuple(
        Cell(spec.id, check, f"{check} {i}")
        for spec in registry.kernels
        if backend in (None, spec.backend) and (not kernels or spec.id in kernels)
        for check in asked
        if not checks or check in checks
        for i in range(CELLS)
    )


def run_cell(cell, registry, device, *, seed=0):
    with Path(os.environ["TEST_LOG"]).open("a") as log:
        log.write(f"{cell.id}\t{os.getpid()}\n")
    CURRENT[0] = cell.id
    # of the cells of a check the first one does it, the others agree
    does = CHECKS[cell.check] if cell.label.endswith(" 0") else CHECKS["agrees"]
    if cell.check in ("slow", "compiles", "prints") or cell.kernel == os.environ.get("TEST_ALWAYS"):
        does = CHECKS[cell.check]
    return does()


class Plugin:
    __name__ = "acme"

    @hookimpl
    def quantmux_backend(self):
        return BackendInfo(name="acme", version=os.environ.get("TEST_VERSION", "1.0"))

    @hookimpl
    def quantmux_kernels(self):
        from quantmux.capability.capability import Capability, OperandOffer
        from quantmux.config import operand

        offer = OperandOffer.of(operand("fp8_token"), ("row_major",))
        return tuple(
            KernelSpec(
                id=f"acme/{stem}",
                op="quantize",
                load="quantmux_test_engine:nothing",
                capability=Capability(arch="any", produces=(offer,)),
                version=os.environ.get("TEST_KERNEL_VERSION", "1") if stem == "one" else "",
            )
            for stem in ("one", "two")
        )


class Broken:
    __name__ = "broken"

    @hookimpl
    def quantmux_backend(self):
        raise RuntimeError("born broken")


def registry():
    return Registry.of({"acme": Plugin()})


def registry_with_a_broken_plugin():
    return Registry.of({"acme": Plugin(), "broken": Broken()})


def registry_that_differs():
    """Another one in every process."""

    class Other(Plugin):
        @hookimpl
        def quantmux_backend(self):
            return BackendInfo(name="acme", version=f"1.{os.getpid()}")

    return Registry.of({"acme": Other()})


def registry_that_dies():
    if sys.argv[0].endswith("worker.py"):
        sys.stderr.write("cannot live here\n")
        os._exit(9)
    return registry()
