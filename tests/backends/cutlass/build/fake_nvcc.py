"""A compiler driver that takes what `quantmux_cutlass.build.command` gives nvcc, and nothing else.

It compiles the source with the host's g++, so that what comes out can be loaded. Whatever nvcc
would not take it does not take either. ``FAKE_NVCC`` says how it behaves, ``FAKE_LOG`` names a file
that gets a line for every compilation.
"""

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

say = partial(print, flush=True)

PLAIN = {
    "-std=c++17",
    "-O3",
    "-DNDEBUG",
    "-w",
    "--expt-relaxed-constexpr",
    "-shared",
    "-cudart=static",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-fno-strict-aliasing",
    "-Xlinker=--exclude-libs,ALL",
    "-DCUTLASS_ENABLE_GDC_FOR_SM90=1",
    "-DCUTLASS_ENABLE_GDC_FOR_SM100=1",
    "--keep",
}
NEEDED = PLAIN - {"-w"}
GENCODE = re.compile(r"-gencode=arch=compute_(\d+[af]),code=sm_(\d+[af])$")
DEFINE = re.compile(r"-D(QM_\w+)=(.*)$")


def main() -> int:
    arguments = sys.argv[1:]
    mood = os.environ.get("FAKE_NVCC", "")
    if arguments == ["--version"]:
        release = os.environ.get("FAKE_VERSION", "13.0.88")
        say(f"nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, V{release}")
        return 0
    parts, macros, folders, out, keep, source = read(arguments)
    if os.environ.get("FAKE_LOG"):
        with Path(os.environ["FAKE_LOG"]).open("a") as log:
            log.write(f"{macros['QM_NAME']} {'+'.join(parts)} {os.getpid()}\n")
    if os.environ.get("TMPDIR") != str(keep):
        return refuse("temporary files would lie where nobody sweeps them")
    if mood.startswith("sleep"):
        # a grandchild, as cicc is one: it has to go with the group
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        (Path(os.environ["FAKE_LOG"]).with_suffix(".child")).write_text(str(child.pid))
        (keep / "half.o").write_text("half a file")
        time.sleep(float(mood.partition(":")[2]))
        child.kill()
        child.wait()
    if mood.startswith("gate:"):
        gate = Path(mood.removeprefix("gate:"))
        while not gate.exists():
            time.sleep(0.02)
    if mood == "error":
        say("warning: many words\n" * 20 + 'source.cu(3): error: identifier "x" is undefined')
        return 1
    if mood == "full":
        say("nvcc fatal: /tmp/x.ii: No space left on device")
        return 1
    if mood == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if mood == "nothing":
        return 0
    if mood == "text":
        out.write_text("this is no library")
        return 0
    if mood == "large":
        out.write_bytes(b"x" * 10_000_000)
        return 0
    if mood.startswith("replace:"):
        name, _, value = mood.removeprefix("replace:").partition("=")
        macros[name] = value
    command = ["g++", "-x", "c++", "-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden"]
    command += [f"-D{name}={value}" for name, value in macros.items()]
    command += [f"-I{folder}" for folder in folders]
    done = subprocess.run([*command, str(source), "-o", str(out)], check=False)
    for part in parts:
        (keep / f"{source.stem}.compute_{part}.cubin").write_bytes(b"code for " + part.encode())
    if mood == "crash":
        data = out.read_bytes()
        out.write_bytes(data[: len(data) // 2])
    return done.returncode


def read(arguments):
    parts, macros, folders = [], {}, []
    out = keep = source = None
    seen = set()
    rest = iter(arguments)
    for argument in rest:
        if argument in PLAIN:
            seen.add(argument)
        elif found := GENCODE.match(argument):
            if found[1] != found[2]:
                sys.exit(refuse(f"{argument}: code for another architecture than compiled for"))
            parts.append(found[1])
        elif found := DEFINE.match(argument):
            macros[found[1]] = found[2]
        elif argument.startswith("--threads="):
            threads = int(argument.partition("=")[2])
            if threads != len(parts):
                sys.exit(refuse(f"{threads} threads for {len(parts)} architectures"))
        elif argument.startswith("-I"):
            folders.append(Path(argument[2:]))
        elif argument.startswith("--keep-dir="):
            keep = Path(argument.partition("=")[2])
        elif argument == "-o":
            out = Path(next(rest))
        elif argument.startswith("-") or source is not None:
            sys.exit(refuse(f"unknown argument {argument}"))
        else:
            source = Path(argument)
    lacking = sorted(NEEDED - seen) + [
        name
        for name, value in (("-o", out), ("--keep-dir", keep), ("a source", source))
        if value is None
    ]
    lacking += [name for name in ("QM_NAME", "QM_TARGETS", "QM_DIGEST") if name not in macros]
    if lacking or not parts:
        sys.exit(refuse(f"not given: {lacking or 'a target'}"))
    for folder in (*folders, keep, out.parent):
        if not folder.is_dir():
            sys.exit(refuse(f"{folder} is no folder"))
    return parts, macros, folders, out, keep, source


def refuse(why: str) -> int:
    say(f"nvcc fatal: {why}", file=sys.stderr)
    return 2


sys.exit(main())
