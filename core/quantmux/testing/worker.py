"""The process that runs the cells of a sweep, and may die of them.

    python -m quantmux.testing.worker FD PARENT

It reads lines of JSON from the socket FD, what to set up and then chunks of cells, and answers on
the same socket: ``ready``, then ``begin`` and ``end`` around every cell. A kernel may print what
it likes: standard output and error lead elsewhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

from quantmux.testing.worker_wire import MARK, decode, pack_outcome, send, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux.capability.device import DeviceProfile
    from quantmux.registry.manager import Registry
    from quantmux.testing.cell import Cell, Outcome

POISONED: Final = "context_poisoned"
"""Code of an outcome after which this process can use its GPU no more."""

_PR_SET_PDEATHSIG: Final = 1
_OVER: Final = 0
_NO_PARENT: Final = 70


class Worker:
    """Runs cells until its parent has no more of them.

    Args:
        channel: The socket to the parent.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._pid = os.getpid()

    def serve(self) -> None:
        """Set up as the first line says, then run every chunk that follows."""
        lines = self._lines()
        hello = next(lines, None)
        if hello is None:
            return
        registry, device, engine = _set_up(hello)
        self._say({"ready": registry.fingerprint})
        for message in lines:
            for cell in unpack(message["cells"]):
                _mark_output()
                self._say({"begin": cell.id})
                outcome = _answer(engine, cell, registry, device, hello["seed"])
                if os.getpid() != self._pid:
                    os._exit(_OVER)  # the child of a kernel that forked, and came back here
                self._say({"end": cell.id, "outcome": pack_outcome(outcome)})
                if outcome.code == POISONED:
                    return
            self._say({"idle": True})

    def _lines(self) -> Iterator[dict[str, Any]]:
        with self._channel.makefile("rb") as stream:
            for line in stream:
                yield decode(line)

    def _say(self, message: dict[str, Any]) -> None:
        send(self._channel, message)


def _set_up(hello: dict[str, Any]) -> tuple[Registry, DeviceProfile, Any]:
    sys.path[:] = hello["path"]
    if hello["factory"] is not None:
        module, _, name = hello["factory"].partition(":")
        registry: Registry = getattr(importlib.import_module(module), name)()
    else:
        from quantmux.config.policy_file import load_policy
        from quantmux.registry.manager import load_registry

        registry = load_registry(load_policy(hello["policy"]))
    from quantmux.registry.default import set_default_registry

    set_default_registry(registry)
    return registry, unpack(hello["device"]), importlib.import_module(hello["engine"])


def _answer(
    engine: Any, cell: Cell, registry: Registry, device: DeviceProfile, seed: int
) -> Outcome:
    from quantmux.errors import LaunchError
    from quantmux.registry.guard import describe
    from quantmux.testing.cell import Outcome, Verdict

    try:
        outcome = engine.run_cell(cell, registry, device, seed=seed)
        if not isinstance(outcome, Outcome):
            reason = f"the check gave a {type(outcome).__name__}, not an Outcome"
            return Outcome(Verdict.FAILS, reason, "raised")
    except BaseException as error:  # noqa: BLE001 - KeyboardInterrupt of a kernel's too: here is no user
        lost = isinstance(error, LaunchError) and error.context_poisoned
        code = POISONED if lost else "raised"
        return Outcome(Verdict.FAILS, f"the check raised {describe(error)}", code)
    if outcome.code == POISONED:
        return outcome
    trouble = _cuda_trouble()
    return outcome if trouble is None else Outcome(Verdict.FAILS, trouble, POISONED)


def _mark_output() -> None:
    """Let the parent tell what this cell prints from what others printed before."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        os.write(2, MARK)


def _cuda_trouble() -> str | None:
    """Wait for the GPU, so that an error of this cell is not found in the next one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        first, *_ = str(error).splitlines()
        return f"the CUDA context was lost: {first}"
    return None


def _die_with(parent: int) -> None:
    """Have Linux end this process when the sweep ends, however that ends."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
            file.write("1000")  # when memory runs out, this process is to go and not the sweep
    if os.getppid() != parent:
        os._exit(_NO_PARENT)


def main(arguments: list[str]) -> NoReturn:
    """Serve the parent on the socket that the arguments name; never returns."""
    channel = socket.socket(fileno=int(arguments[0]))
    channel.set_inheritable(False)
    _die_with(int(arguments[1]))
    # a kernel that hangs or crashes is asked, or says by itself, where it was
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pid = os.getpid()
    code = _OVER
    try:
        Worker(channel).serve()
    except BrokenPipeError:
        code = _NO_PARENT
    except BaseException as error:  # noqa: BLE001 - reported below, and it ends the process
        if os.getpid() == pid:
            with contextlib.suppress(OSError):
                send(channel, {"broken": f"{type(error).__name__}: {error}"})
        code = 1
    # not sys.exit: a kernel may have left threads or exit hooks that never end
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
