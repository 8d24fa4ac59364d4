"""One compilation, from the command to a folder that may be published."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantmux_cutlass import abi
from quantmux_cutlass.build.about import about_problems, read_about
from quantmux_cutlass.build.command import command
from quantmux_cutlass.build.entries import LIBRARY, Record, write_record
from quantmux_cutlass.build.nvcc_run import Stop, run
from quantmux_cutlass.build.refusals import library_wrong, run_failed
from quantmux_cutlass.interfaces import ALWAYS, INTERFACES

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux_cutlass.build.keys import Key
    from quantmux_cutlass.build.known import Known
    from quantmux_cutlass.units import Unit

_INSPECT: Final = Path(__file__).with_name("inspect_library.py")
_INSPECT_S: Final = 120.0


def compile_into(
    work: Path,
    known: Known,
    *,
    timeout: float,
    stop: Stop,
    background: bool,
    checking: Callable[[], None],
) -> Path:
    """Compile a unit and check what came out; gives the folder to publish.

    Args:
        work: An empty folder.
        known: What to compile, on a machine that can.
        timeout: Seconds until the compiler is ended.
        stop: Ends it from another thread.
        background: Let other programs go first.
        checking: Told when the compiler has done its part.

    Raises:
        BuildError: Codes ``compile``, ``timeout``, ``library``, ``disk``, ``memory``,
            ``interrupted``.
        OSError: The disk refuses.
    """
    unit, target, key, toolchain = known.unit, known.target, known.key, known.maker
    if toolchain is None:
        raise ValueError(f"{unit.name} cannot be compiled here: {known.rejection}")
    made, way = work / "made", work / "way"
    made.mkdir()
    way.mkdir()
    out = way / LIBRARY
    line = command(unit, target, toolchain, digest=key.text, work=way, out=out)
    # nvcc's own temporary files too go where they are swept
    env = {**os.environ, "TMPDIR": str(way), "LC_ALL": "C"}
    ran = run(
        line, work / "log", cwd=way, env=env, timeout=timeout, stop=stop, background=background
    )
    if ran.status != 0:
        raise run_failed(unit, target, ran, timeout)
    checking()
    if not out.is_file():
        raise library_wrong(unit, target, (f"{line[0]} ended well and wrote nothing",))
    _strip(out)
    _inspect(out, unit, target, key)
    shutil.move(out, made / LIBRARY)
    stem = Path(unit.source).stem
    parts = target.split("+")
    for part in parts:
        # nvcc names the architecture only where there are several
        name = f"{stem}.compute_{part}.cubin" if len(parts) > 1 else f"{stem}.cubin"
        if (way / name).is_file():
            shutil.move(way / name, made / f"sm_{part}.cubin")
    data = (made / LIBRARY).read_bytes()
    record = Record(
        unit=unit.name,
        target=target,
        abi=abi.VERSION,
        digest=key.text,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        nvcc=toolchain.nvcc_version,
        host=toolchain.host,
        cutlass=(toolchain.headers_version or "") if unit.cutlass else "",
        seconds=round(ran.seconds, 1),
        cpu_seconds=round(ran.cpu_seconds, 1),
        memory_mib=ran.memory_mib,
        made=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    write_record(made, record)
    return made


def _strip(library: Path) -> None:
    """Take out what only a debugger reads, a quarter of the file; without the tool it stays."""
    tool = shutil.which("strip")
    if tool is not None:
        subprocess.run(
            [tool, "--strip-unneeded", str(library)], capture_output=True, check=False, timeout=60
        )


def _inspect(library: Path, unit: Unit, target: str, key: Key) -> None:
    """Load the library in another process and compare what it says with what was asked."""
    symbols = (*ALWAYS, *INTERFACES[unit.interface])
    line = [sys.executable, "-I", "-S", str(_INSPECT), str(library), *symbols]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=_INSPECT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise library_wrong(unit, target, ("loading it does not end",)) from error
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise library_wrong(unit, target, ("it cannot be loaded", *last))
    found: dict[str, Any] = json.loads(done.stdout)
    facts = [f"it does not export {name}" for name in found["missing"]]
    if found.get("abi") != abi.VERSION:
        facts.append(f"its ABI version is {found.get('abi')}, not {abi.VERSION}")
    facts += about_problems(read_about(found.get("about", "")), unit, target, key)
    if facts:
        raise library_wrong(unit, target, tuple(facts))
