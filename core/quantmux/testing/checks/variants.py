"""variants: after a warmup no call compiles, and the number of rows makes no variant.

A kernel that can tell offers ``compiled_variants() -> int``, the variants that exist in this
process. One whose variants depend on more than the config also offers ``declared_variants(config)
-> int``, how many a config may need; without it that is 1.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from quantmux.ops.spec import Case
from quantmux.testing.answers import agrees, fails, not_here, served
from quantmux.testing.cell import Cell, Outcome
from quantmux.testing.derive import labelled, plain_cases, rows_served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.testing.stage import Stage

ALWAYS: Final = False
MS: Final = (1, 2, 3, 15, 16, 17, 32, 1000)
"""1, multiples of 16 and their neighbours: what Triton specialises on if it is let."""


def cells(spec: KernelSpec, stage: Stage, small_only: bool) -> Iterator[Cell]:
    """Give one cell per scheme or operand."""
    del small_only
    for label, case, detail in labelled(plain_cases(spec, stage, (16,))):
        yield Cell(spec.id, "variants", label, case, tuple(detail.items()))


def run(cell: Cell, stage: Stage) -> Outcome:
    """Warm up for all rows, then call with each and count what was compiled."""
    asked = served(cell, stage)
    if isinstance(asked, Outcome):
        return asked
    spec, case = asked
    kernel = stage.registry.load_kernel(spec.id)
    ms = rows_served(spec.capability, MS)
    count = getattr(kernel, "compiled_variants", None)
    before = int(count()) if count else 0
    with compilations() as warming:
        kernel.warmup(case.config, ms)
    warm = int(count()) if count else 0
    with compilations() as calling:
        for m in ms:
            stage.trial(spec, Case(case.config, m, case.kind, case.magnitude))()
    after = int(count()) if count else 0
    if calling:
        return fails(f"{len(calling)} compilations after warmup({list(ms)})", "compiles")
    if count is None:
        seen = f", {len(warming)} seen" if warming else ""
        return not_here(f"it tells of no compiled variants{seen}", "compiled_variants")
    if after != warm:
        return fails(f"{after - warm} new variants after warmup({list(ms)})", "compiles")
    declared = getattr(kernel, "declared_variants", None)
    allowed = int(declared(case.config)) if declared else 1
    if warm - before > allowed:
        return fails(f"needs at most {allowed} variants, found {warm - before}", "variants")
    return agrees(reason=f"{warm - before} variants compiled")


@contextmanager
def compilations() -> Iterator[list[Any]]:
    """Collect Triton's compilations of the block, those too whose code lay in its cache on disk.

    None where Triton is not in use. Its listener of the compiler is asked, and only where there is
    none the hook of the launcher, for which Triton 3.6 and 3.9 write every constant as JSON: a
    kernel whose constants are layouts (Gluon) could not be compiled under it.
    """
    found: list[Any] = []
    knobs: Any = getattr(sys.modules.get("triton"), "knobs", None)
    compiler, runtime = getattr(knobs, "compilation", None), getattr(knobs, "runtime", None)
    for place, name in ((compiler, "listener"), (runtime, "jit_post_compile_hook")):
        if hasattr(place, name):
            break
    else:
        yield found
        return
    was = getattr(place, name)

    def listen(*args: Any, **kwargs: Any) -> Any:
        found.append(kwargs.get("repr") or getattr(kwargs.get("src"), "name", ""))
        return was(*args, **kwargs) if was else None

    setattr(place, name, listen)
    try:
        yield found
    finally:
        setattr(place, name, was)
