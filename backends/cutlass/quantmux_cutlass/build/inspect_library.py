"""Run as a program: load a library, print what it says of itself as JSON.

In a process of its own, because a library that is wrong may end the process that loads it. Uses
nothing but ctypes, so that starting it takes some milliseconds; needs no GPU.

    python inspect_library.py LIBRARY SYMBOL…
"""

from __future__ import annotations

import ctypes
import json
import os
import sys


def inspect(path: str, symbols: list[str]) -> dict[str, object]:
    """Give ABI version, the text of ``qm_about``, and the symbols that are not there."""
    library = ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_LOCAL)
    missing = [name for name in symbols if not hasattr(library, name)]
    found: dict[str, object] = {"missing": missing}
    if "qm_abi" not in missing:
        found["abi"] = int(library.qm_abi())
    if "qm_about" not in missing:
        library.qm_about.restype = ctypes.c_char_p
        found["about"] = (library.qm_about() or b"").decode("utf-8", errors="replace")
    return found


if __name__ == "__main__":
    json.dump(inspect(sys.argv[1], sys.argv[2:]), sys.stdout)
