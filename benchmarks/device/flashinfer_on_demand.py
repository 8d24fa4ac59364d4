"""FlashInfer's modules on demand, on a real GPU: who serves meanwhile, and what takes over.

    python benchmarks/device/flashinfer_on_demand.py

Begins with empty caches in a folder of its own, compiles two modules, prints one line per statement
and exits with 1 if one of them does not hold. Needs an sm90 GPU, nvcc, and one to two minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(tempfile.mkdtemp(prefix="quantmux-on-demand-"))
POLICY: Final = {"order": ["flashinfer", "torch"], "deny": ["cutlass", "triton", "*_cudnn"]}
TENSOR, BLOCK = "flashinfer/linear_fp8_bmm_cublas", "flashinfer/linear_fp8_block_sm90_inside"

failed: Final[list[str]] = []


def want(what: str, ok: bool, *more: Any) -> None:
    print("ok " if ok else "BAD", what, *more, flush=True)
    if not ok:
        failed.append(what)


def quantmux(*arguments: str, policy: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    if policy is not None:
        file = FOLDER / "plugins.toml"
        file.write_text(policy, encoding="utf-8")
        environment["QUANTMUX_PLUGINS"] = str(file)
    code = "import sys; from quantmux.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )


def main() -> int:
    os.environ["FLASHINFER_WORKSPACE_BASE"] = str(FOLDER / "modules")
    os.environ["QUANTMUX_CACHE_DIR"] = str(FOLDER / "user")
    os.environ["TRTLLM_DG_CACHE_DIR"] = str(FOLDER / "deep_gemm")
    begun = time.perf_counter()
    import torch

    import quantmux as qm
    from quantmux.runtime.context import default_context

    torch.manual_seed(0)
    w = torch.randn(1024, 1280, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(16, 1280, device="cuda", dtype=torch.bfloat16)

    def layer(scheme: str) -> Any:
        return qm.Linear.from_float(w, scheme, policy=POLICY)

    def kernel(one: Any) -> str:
        return str(one.bind().pipeline_for(16).main.id)

    first = layer("fp8_tensor")
    before = first(x)
    took = time.perf_counter() - begun
    want("another kernel serves first", kernel(first).startswith("torch/"), f"{took:.1f} s")
    pending = first.bind().pending
    want("what is being compiled is named", TENSOR in pending, pending)
    events = first.bind().events
    want("one event of stage build", [e.stage for e in events] == ["build"], *events)
    want("nothing is quarantined", default_context().quarantine.entries() == ())
    since = time.perf_counter()
    first.rebind(wait=True)
    took = time.perf_counter() - since
    want("rebinding takes it when it is ready", kernel(first) == TENSOR, f"{took:.1f} s")
    after = first(x)
    off = float((after.float() - before.float()).norm() / before.float().norm())
    want("it gives the same numbers", off < 5e-3, f"{off:.1e}")
    want("later layers take it at once", kernel(layer("fp8_tensor")) == TENSOR)
    second = layer("fp8_block128")
    since = time.perf_counter()
    report = qm.warmup(second, ms=(1, 16))
    took = time.perf_counter() - since
    want("warmup waits for a module", kernel(second) == BLOCK, f"{took:.1f} s", *report.failed)
    since = time.perf_counter()
    second(x)
    torch.cuda.synchronize()
    took = time.perf_counter() - since
    want("a call after warmup compiles nothing", took < 0.2, f"{took * 1e3:.1f} ms")
    since = time.perf_counter()
    again = quantmux("build", "flashinfer", "--kernel", TENSOR, "--arch", "90a")
    took = time.perf_counter() - since
    want("another process finds it compiled", "there" in again.stdout, f"{took:.1f} s")
    never = f"""schema = 1
[plugins.flashinfer]
options = {{ build = "never", workspace = "{FOLDER / "elsewhere"}" }}
"""
    asked = ("explain", "linear", "--scheme", "fp8_tensor", "--n", "1024", "--k", "1280", "--json")
    os.environ.pop("FLASHINFER_WORKSPACE_BASE")
    told = quantmux(*asked, policy=never)
    want(
        "without leave to compile it is refused by name",
        "not_built" in told.stdout,
        told.stderr[-200:],
    )
    print("all hold" if not failed else f"BAD: {failed}", f"{time.perf_counter() - begun:.0f} s")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
