"""Units: what the compiler is given, as data. One unit becomes one library per target."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unit:
    """One source file with one set of macros.

    Attributes:
        name: Its name, also the library's: ``fp8_stream``.
        source: The ``.cu`` file, relative to the package.
        targets: What it can be compiled for, one library each: ``("90a",)``. A target with plus
            signs is one library with code for several: ``"90a+100f+120f"``.
        macros: ``-D`` macros, in order.
        cutlass: Versions of the CUTLASS headers that it needs (``>=4.3.5``); "" needs none.
        self_test: ``package.module:function`` that proves a library just loaded on the GPU.
        test_options: ``QmProblem.option`` that the self-test gives, one proof each; one that is
            legal for N = 200, K = 272 (K = 288 for NVFP4) and every M.
        interface: Which functions it exports beside ``qm_abi`` and ``qm_about``, by name in
            `quantmux_cutlass.interfaces.INTERFACES`.
        seconds: CPU seconds one compilation takes, measured; for the progress bar and the order.
        memory_gib: Memory one compilation takes, GiB, measured.
    """

    name: str
    source: str
    targets: tuple[str, ...]
    macros: tuple[tuple[str, str], ...] = ()
    cutlass: str = ""
    self_test: str = ""
    test_options: tuple[tuple[int, ...], ...] = ((),)
    interface: str = "linear"
    seconds: float = 100.0
    memory_gib: float = 6.0
