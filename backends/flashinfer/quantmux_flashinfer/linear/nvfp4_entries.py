"""What the NVFP4 linears call of FlashInfer, one entry a back end of it.

``mm_fp4`` multiplies NVFP4 by NVFP4, ``mm_bf16_fp4`` plain bf16 by NVFP4. Of every other back end
of theirs it is said why it is not here:

* ``auto`` tells neither what it took nor why, and keeps its pick in an attribute of the function.
* ``cake`` of ``mm_fp4`` is marked experimental by the library, and wants one alpha a row of x; the
  scheme nvfp4 has one for all.

``mm_mxfp8`` is not here either: quantmux has no MXFP8 scheme yet.
"""

from __future__ import annotations

from typing import Final

from quantmux_flashinfer.entries import Entry, ModuleUse

CUDNN_PACKAGE: Final = ("nvidia-cudnn-frontend", "cudnn")
CUTE_PACKAGE: Final = ("nvidia-cutlass-dsl", "cutlass")

_TRTLLM_MODULES: Final = (
    ModuleUse("trtllm_gemm", ("100", "103")),
    ModuleUse("trtllm_gemm_sm107", ("107",)),
)


def _mm_fp4(
    backend: str,
    *,
    modules: tuple[ModuleUse, ...] = (),
    packages: tuple[tuple[str, str], ...] = (),
    cubins: bool = False,
) -> Entry:
    return Entry(
        function="flashinfer:mm_fp4",
        parameters=(
            "a",
            "b",
            "a_descale",
            "b_descale",
            "alpha",
            "out_dtype",
            "out",
            "use_8x4_sf_layout",
        ),
        backend=backend,
        is_gated=True,
        modules=modules,
        packages=packages,
        cubins=cubins,
    )


def _mm_bf16_fp4(backend: str, *packages: tuple[str, str]) -> Entry:
    return Entry(
        function="flashinfer:mm_bf16_fp4",
        parameters=("a", "b", "b_descale", "alpha", "out_dtype", "out"),
        backend=backend,
        is_gated=True,
        packages=packages,
    )


CUTLASS: Final = _mm_fp4(
    "cutlass",
    modules=(
        ModuleUse("fp4_gemm_cutlass", ("100", "107", "110")),
        ModuleUse("fp4_gemm_cutlass_sm103", ("103",)),
        ModuleUse("fp4_gemm_cutlass_sm120", ("120f",)),
    ),
)
CUDNN: Final = _mm_fp4("cudnn", packages=(CUDNN_PACKAGE,))
TRTLLM: Final = _mm_fp4("trtllm", modules=_TRTLLM_MODULES, cubins=True)
CUTE_DSL: Final = _mm_fp4("cute-dsl", packages=(CUTE_PACKAGE,))
CUTEDSL_LOW_LATENCY: Final = _mm_fp4("cutedsl_low_latency", packages=(CUTE_PACKAGE,))
B12X: Final = _mm_fp4("b12x", packages=(CUTE_PACKAGE,))

W4A16_CUDNN: Final = _mm_bf16_fp4("cudnn", CUDNN_PACKAGE)
W4A16_CUTE_DSL: Final = _mm_bf16_fp4("cute-dsl", CUTE_PACKAGE)
W4A16_CUTE_DSL_NATIVE: Final = _mm_bf16_fp4("cute-dsl-native", CUTE_PACKAGE)
W4A16_BLACKWELL_NATIVE: Final = _mm_bf16_fp4("blackwell-native")
W4A16_BLACKWELL_TILED: Final = _mm_bf16_fp4("blackwell-tiled")


def preparation_of(entry: Entry) -> Entry:
    """Give the entry of the function that prepares weights for a back end of ``mm_bf16_fp4``."""
    return Entry(
        function="flashinfer:prepare_bf16_fp4_weights",
        parameters=("b", "b_descale", "alpha"),
        backend=entry.backend,
        packages=entry.packages,
    )
