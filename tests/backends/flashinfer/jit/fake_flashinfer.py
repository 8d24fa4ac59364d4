"""A FlashInfer that compiles nothing, laid out as the real one: generators give a spec to build.

The test machine adds a generator for every module of our table. A spec writes what the real one
leaves behind: a build file with the flags of its environment, ninja's log, the library.
``FAKE_FLASHINFER_…`` tells it to take time, to fail, or to start children.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from filelock import FileLock


class Spec:
    def __init__(self, name):
        self.name = name
        base = Path(os.environ["FLASHINFER_WORKSPACE_BASE"]) / ".cache" / "flashinfer"
        words = os.environ["FLASHINFER_CUDA_ARCH_LIST"].replace(".", "").split(" ")
        meta = Path(__file__).resolve().parents[1] / "_build_meta.py"
        version = meta.read_text(encoding="utf-8").split('"')[1]
        self.modules = base / version / "_".join(words) / "cached_ops"
        self.folder = self.modules / name
        self.jit_library_path = self.folder / f"{name}.so"

    @property
    def lock_path(self):
        (self.modules / "tmp").mkdir(parents=True, exist_ok=True)
        return self.modules / "tmp" / f"{self.name}.lock"

    def write_ninja(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        extra = [os.environ.get(f"FLASHINFER_EXTRA_{n}FLAGS", "") for n in ("C", "CUDA", "LD")]
        lines = [
            f"cuda_home = {os.environ['CUDA_HOME']}",
            "cxx = c++",
            "nvcc = $cuda_home/bin/nvcc",
            f"cflags = {' '.join(extra)}",
        ]
        (self.folder / "build.ninja").write_text("\n".join(lines), encoding="utf-8")

    def build(self, verbose, need_lock):
        assert verbose
        assert need_lock
        with FileLock(self.lock_path, thread_local=False):
            self._build()

    def _build(self):
        told = {n: os.environ.get(f"FAKE_FLASHINFER_{n}", "") for n in ("FAIL", "CHILD", "SECONDS")}
        note(f"begin {self.name} {os.environ.get('MAX_JOBS')}")
        say("[1/2] nvcc " + "-DX " * 500)
        if told["CHILD"]:
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            Path(told["CHILD"]).write_text(str(child.pid), encoding="utf-8")
        wait_for_others(int(os.environ.get("FAKE_FLASHINFER_MEET", "0")))
        time.sleep(float(told["SECONDS"] or 0))
        if told["FAIL"]:
            say(told["FAIL"])
            say("ninja: build stopped: subcommand failed.")
            note(f"end {self.name}")
            raise RuntimeError("Ninja build failed.")
        say("[2/2] c++")
        (self.folder / ".ninja_log").write_text(f"0\t1\t2\t{self.name}.so\tabc\n", encoding="utf-8")
        self.jit_library_path.write_bytes(b"\x7fELF")
        note(f"end {self.name}")


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def wait_for_others(count):
    """Go on when so many have begun: they run side by side, however slow the machine is."""
    deadline = time.monotonic() + 60
    runs = Path(os.environ["FAKE_FLASHINFER_RUNS"])
    while runs.read_text(encoding="utf-8").count("begin ") < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def note(text):
    with Path(os.environ["FAKE_FLASHINFER_RUNS"]).open("a", encoding="utf-8") as file:
        file.write(text + "\n")
