// What every library of this backend exports, in plain C: no torch, no Python, no C++ types.
//
//   qm_abi()      the version of this file; the loader refuses another one
//   qm_about()    "name=...;targets=90a;cutlass=4.5.0;digest=..." as it was compiled
//   qm_plan()     everything of one layer that does not change from call to call, into memory of
//                 the caller (qm_plan_bytes() bytes, aligned to 64); checks all of it
//   qm_run()      one call: launches on `stream`, allocates nothing, waits for nothing
//
// A plan is only read by qm_run, so threads and streams may share one. The digest in qm_about is
// the build's cache key: a library under the name of another is found out when it is loaded.
#pragma once
#include <cstddef>
#include <cstdint>

#define QM_ABI_VERSION 1
#define QM_API extern "C" __attribute__((visibility("default")))

// Code for one architecture must not be compiled for another: CUTLASS's kernels would launch,
// return success and compute nothing. Only targets with a letter (90a, 100f, 120f) are made.
#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL) && \
    !defined(__CUDA_ARCH_SPECIFIC__) && !defined(__CUDA_ARCH_FAMILY_SPECIFIC__)
#error "quantmux: compile for a target with a letter: 90a, 100f or 120f"
#endif

enum QmStatus : int {
  QM_OK = 0,
  QM_NULL = 1,       // a pointer that must be given is null
  QM_ALIGNMENT = 2,  // an address breaks the rule of the TMA unit
  QM_STRIDE = 3,     // a row stride is too short, or no multiple of what the TMA unit needs
  QM_SHAPE = 4,      // N or K is not positive, M is negative, or one is too large
  QM_OPTION = 5,     // an option or a combination that this library does not have
  QM_VERSION = 6,    // QmProblem is of another version
  QM_REFUSED = 7,    // CUTLASS refused the arguments
  QM_DESCRIPTOR = 8, // the driver refused a TMA descriptor
  QM_CUDA = 1000,    // + the cudaError_t
};

// How the scales of x lie, for schemes with a scale for 128 columns.
enum QmColumns : int { QM_ROW_MAJOR = 0, QM_COL_MAJOR = 1, QM_COL_MAJOR_ALIGNED4 = 4 };

// Mirrored by quantmux_cutlass.abi.Problem; a test compares the offsets.
struct QmProblem {
  uint32_t bytes;        // sizeof(QmProblem)
  uint32_t abi;          // QM_ABI_VERSION
  void const* w;         // weights [N, K], K contiguous
  void const* w_scales;  // fp32 [N] or [1]; block: fp32 [ceil(N/128), ceil(K/128)]; NVFP4: e4m3, swizzled_128x4
  float const* bias;     // fp32 [N], or null
  float const* alpha;    // NVFP4: the weights' global scale, fp32 [1]; else null
  int64_t w_row;         // elements between rows of w
  int64_t w_scales_row;  // elements between rows of block scales
  int64_t x_row;         // elements between rows of x
  int64_t y_row;         // elements between rows of y
  int32_t n, k;          // logical
  int32_t w_by_row;      // 1: a scale for each row of w, 0: one
  int32_t x_by_row;      // 1: a scale for each row of x, 0: one
  int32_t x_columns;     // QmColumns
  int32_t out;           // 0 bf16, 1 fp16
  int32_t device;        // CUDA ordinal
  int32_t sms;           // multiprocessors of the device
  int32_t pdl;           // 1: may start while the kernel before it ends (docs/decisions/0010)
  int32_t option[7];     // the library's own: tiles, splits, raster order
};

// int    qm_abi();
// char const* qm_about();
// size_t qm_plan_bytes();
// int    qm_plan(QmProblem const* problem, void* plan);
// int    qm_run(void const* plan, void const* x, void const* x_scales, void* y, int64_t m, void* stream);
// int    qm_run_at(void const* plan, void const* x, int64_t x_row, void const* x_scales, void* y,
//                  int64_t y_row, int64_t m, void* stream);   // other strides than the plan's
// NVFP4: void const* x_global (fp32 [1]) after x_scales in both.
