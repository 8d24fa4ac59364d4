"""The modules that FlashInfer compiles for our kernels: what each is, needs and costs.

A module is one shared object that FlashInfer's own generator describes and ninja makes, the first
time that a function of it is called. Names are those on disk, so what another program of this user
compiled is found. Nothing here imports anything: the worker reads it before FlashInfer is there.

Where ``measured`` says so, seconds and memory were seen on an H200 host (16 cores, 126 GiB, nvcc
13.0, FlashInfer 0.7.2.post1, five modules at once, 2026-11-21; a second time 39, 77, 44, 42 and 40
s). The rest are our estimates, from the number of units; FlashInfer itself reckons with 8 GiB for
every unit, which the largest one seen, of ``fp8_blockscale_gemm_90``, has half of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CUBLAS: Final = ("cublasLt.h",)
INTERNAL: Final = ("cublasLt.h", "curand_kernel.h")
"""What the headers of its ``nv_internal`` folder include, the quantizers' too."""


@dataclass(frozen=True, slots=True)
class JitModule:
    """One module.

    Attributes:
        name: Its name on disk.
        generator: ``module:function`` that describes it, importable once FlashInfer is.
        archs: Compute capabilities whose GPUs load it, as numbers.
        arguments: What the generator is called with.
        headers: Headers of the CUDA toolkit that it includes, beyond those that nvcc brings.
        libraries: Libraries that it is linked against, beyond cudart and cuda.
        units: Files that are compiled.
        seconds: About how long it takes.
        memory_gib: About the memory of one unit's compiler, GiB.
        measured: ``seconds`` and ``memory_gib`` were measured.
        nvcc: The first nvcc that makes it right.
        torch_cuda: The first CUDA version of torch with which FlashInfer loads this module and no
            other in its place; None where it does not look.
        cubins: Its sources include headers that FlashInfer would download.
        compiles_calls: Its functions run nvcc again at the first call of every shape.
    """

    name: str
    generator: str
    archs: tuple[int, ...]
    arguments: tuple[tuple[str, object], ...] = ()
    headers: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    units: int = 1
    seconds: float = 60.0
    memory_gib: float = 2.0
    measured: bool = False
    nvcc: str = "12.8"
    torch_cuda: str | None = None
    cubins: bool = False
    compiles_calls: bool = False


_GEMM: Final = "flashinfer.jit.gemm"
_FP4: Final = "flashinfer.jit.fp4_quantization"
_SM10X: Final = (100, 103, 107)
_SM12X: Final = (120, 121)
_FP8: Final = (89, 90, 100, 103, 107, 110, 120, 121)


def _quantization(suffix: str, *archs: int, nvcc: str = "12.8") -> JitModule:
    return JitModule(
        f"fp4_quantization_{suffix}",
        f"{_FP4}:gen_fp4_quantization_sm{suffix}_module",
        archs,
        headers=INTERNAL,
        units=7,
        seconds=39.0,
        memory_gib=1.0 if suffix == "90" else 2.0,  # for 9.0 most kernels are empty
        measured=suffix == "90",
        nvcc=nvcc,
        # with an older torch it takes fp4_quantization_120, whose scales were seen to be zero
        torch_cuda="12.9" if suffix == "120f" else None,
    )


def _trtllm(name: str, function: str, *archs: int) -> JitModule:
    return JitModule(
        name,
        f"{_GEMM}:{function}",
        archs,
        arguments=(("enable_rubin", True),) if 107 in archs else (),
        nvcc="13.1" if 107 in archs else "12.8",  # 13.0 was seen not to know 107a
        seconds=60.0,
        cubins=True,
    )


_ALL: Final = (
    JitModule(
        "gemm",
        f"{_GEMM}:gen_gemm_module",
        _FP8,
        headers=CUBLAS,
        libraries=("cublas", "cublasLt"),
        units=3,
        seconds=31.0,
        memory_gib=1.3,
        measured=True,
    ),
    JitModule(
        "fp8_blockscale_gemm_90",
        f"{_GEMM}:gen_fp8_blockscale_gemm_sm90_module",
        (90,),
        headers=INTERNAL,
        libraries=("nvrtc",),
        units=8,
        seconds=94.0,
        memory_gib=4.2,
        measured=True,
        compiles_calls=True,
    ),
    JitModule(
        "norm",
        "flashinfer.jit.norm:gen_norm_module",
        (80, 86, *_FP8),
        headers=INTERNAL,
        units=2,
        seconds=38.0,
        memory_gib=1.0,
        measured=True,
    ),
    JitModule(
        "rope",
        "flashinfer.jit.rope:gen_rope_module",
        (80, 86, *_FP8),
        units=2,
        seconds=47.0,
        memory_gib=0.6,
        measured=True,
    ),
    _quantization("90", 90),
    _quantization("100", 100),
    _quantization("103", 103, nvcc="12.9"),
    _quantization("107", 107, nvcc="12.9"),
    _quantization("110", 110, nvcc="13.0"),
    _quantization("120f", *_SM12X, nvcc="12.9"),
    JitModule(
        "fp8_gemm_cutlass",
        f"{_GEMM}:gen_gemm_sm100_module_cutlass_fp8",
        (*_SM10X, 110),
        units=13,
        seconds=120.0,
        memory_gib=6.0,
    ),
    JitModule(
        "gemm_sm100",
        f"{_GEMM}:gen_gemm_sm100_module",
        _SM10X,
        units=53,
        seconds=300.0,
        memory_gib=6.0,
    ),
    JitModule(
        "gemm_sm120",
        f"{_GEMM}:gen_gemm_sm120_module",
        _SM12X,
        units=28,
        seconds=180.0,
        memory_gib=6.0,
        nvcc="12.9",
    ),
    JitModule(
        "fp4_gemm_cutlass",
        f"{_GEMM}:gen_gemm_sm100_module_cutlass_fp4",
        (100, 107, 110),
        units=9,
        seconds=120.0,
        memory_gib=8.0,
    ),
    JitModule(
        "fp4_gemm_cutlass_sm103",
        f"{_GEMM}:gen_gemm_sm103_module_cutlass_fp4",
        (103,),
        units=23,
        seconds=240.0,
        memory_gib=8.0,
        nvcc="12.9",
    ),
    JitModule(
        "fp4_gemm_cutlass_sm120",
        f"{_GEMM}:gen_gemm_sm120_module_cutlass_fp4",
        _SM12X,
        units=17,
        seconds=200.0,
        memory_gib=8.0,
        nvcc="12.9",
    ),
    _trtllm("trtllm_gemm", "gen_trtllm_gen_gemm_module", 100, 103),
    _trtllm("trtllm_gemm_sm107", "gen_trtllm_gen_gemm_module", 107),
    _trtllm("trtllm_low_latency_gemm", "gen_trtllm_low_latency_gemm_module", 100, 103),
    _trtllm("trtllm_low_latency_gemm_sm107", "gen_trtllm_low_latency_gemm_module", 107),
    # No kernel of ours loads it: the smallest of all, to try a toolchain with.
    JitModule(
        "silu_and_mul",
        "flashinfer.jit.activation:gen_act_and_mul_module",
        (80, 86, *_FP8),
        arguments=(("act_func_name", "silu"),),
        seconds=5.0,
        memory_gib=1.0,
        measured=True,
    ),
)

MODULES: Final[dict[str, JitModule]] = {module.name: module for module in _ALL}
"""Every module by its name."""
