// NVFP4 quantization behind the C ABI: rows of bf16, fp16 or fp32 to e2m1 codes and an e4m3 scale for
// every 16 columns, in every layout and padding. No CUTLASS. One binary for Hopper and Blackwell: the
// conversion is an instruction on 100f and 120f and five fp32 operations on 90a.
//
//   qm_plan(QmQuantizeProblem const*, plan)   what a config fixes; checks it
//   qm_search_parts(plan)                     numbers (int32) that `partial` must hold, for any M
//   qm_quantize(plan, x, row, column, data, scales, given, made, partial, m, stream)
//       one call. given: g, fp32 [1], one launch; null: g is computed from x, by way of `partial`, two
//       launches. row, column: strides of x in elements. made: fp32 [1], g is written there.
#include "abi.cuh"

#include <cuda_runtime.h>

#include "nvfp4_call.cuh"
#include "nvfp4_kernel.cuh"

using namespace qm_nvfp4;

namespace {

int launched(void const* kernel, int grid, int threads, bool pdl, void* stream, void* argument) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(grid));
  config.blockDim = dim3(unsigned(threads));
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = pdl ? 1 : 0;
  void* list[] = {argument};
  cudaError_t const error = cudaLaunchKernelExC(&config, kernel, list);
  return error == cudaSuccess ? QM_OK : QM_CUDA + int(error);
}

template <class T>
void const* search_kernel_of(bool readable) {
  return readable ? reinterpret_cast<void const*>(&search_kernel<T, true>) : reinterpret_cast<void const*>(&search_kernel<T, false>);
}

template <class T>
void const* kernel_of(int layout, bool aligned, bool ahead) {
  void const* found = nullptr;
  with_form(layout, aligned, ahead, [&](auto chosen, auto is_aligned, auto is_ahead) {
    found = reinterpret_cast<void const*>(
        &quantize_kernel<T, decltype(chosen)::value, decltype(is_aligned)::value, decltype(is_ahead)::value>);
    return 0;
  });
  return found;
}

// The runtime loads a kernel when it is first asked for, which it must not do while a stream is captured
int loaded(void const* kernel) {
  cudaFuncAttributes attributes;
  cudaError_t const error = cudaFuncGetAttributes(&attributes, kernel);
  return error == cudaSuccess ? QM_OK : QM_CUDA + int(error);
}

// The device of the plan for as long as a call takes, where another is current
class OnDevice {
 public:
  explicit OnDevice(int device) {
    error_ = cudaGetDevice(&before_);
    if (error_ == cudaSuccess && before_ != device) {
      error_ = cudaSetDevice(device);
      changed_ = error_ == cudaSuccess;
    }
  }
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  cudaError_t error() const { return error_; }

 private:
  int before_ = 0;
  bool changed_ = false;
  cudaError_t error_ = cudaSuccess;
};

}  // namespace

QM_API int qm_abi() { return QM_ABI_VERSION; }

QM_API char const* qm_about() {
  return "name=" QM_NAME ";targets=" QM_TARGETS ";cutlass=;e2m1=instruction on 100f and 120f, fp32 operations on 90a;digest=" QM_DIGEST;
}

QM_API size_t qm_plan_bytes() { return sizeof(Plan); }

QM_API int qm_plan(QmQuantizeProblem const* problem, void* into) {
  int const refused = make_plan(problem, into);
  if (refused != QM_OK) return refused;
  Plan const& plan = *static_cast<Plan const*>(into);
  OnDevice const here(plan.device);
  if (here.error() != cudaSuccess) return QM_CUDA + int(here.error());
  return with_type(plan.in, [&](auto type) {
    using T = decltype(type);
    int status = loaded(search_kernel_of<T>(true));
    if (status == QM_OK) status = loaded(search_kernel_of<T>(false));
    for (int i = 0; i < 3 && status == QM_OK; ++i) status = loaded(kernel_of<T>(plan.layout, i < 2, i == 1));
    return status;
  });
}

QM_API int64_t qm_search_parts(void const* from) { return from ? most_parts(*static_cast<Plan const*>(from)) : -1; }

QM_API int qm_quantize(void const* from, void const* x, int64_t row_stride, int64_t column_stride, void* data, void* scales,
                       void const* given, void* made, void* partial, int64_t m, void* stream) {
  if (!from) return QM_NULL;
  if (m == 0) return QM_OK;
  Plan const& plan = *static_cast<Plan const*>(from);
  Call call;
  int const refused = make_call(plan, x, row_stride, column_stride, data, scales, given, made, partial, m, &call);
  if (refused != QM_OK) return refused;
  OnDevice const here(plan.device);
  if (here.error() != cudaSuccess) return QM_CUDA + int(here.error());
  return with_type(plan.in, [&](auto type) {
    using T = decltype(type);
    if (call.search_programs) {
      int const status = launched(search_kernel_of<T>(call.readable), call.search_programs, kSearchThreads, plan.pdl, stream, &call.search);
      if (status != QM_OK) return status;
    }
    int const threads = 1 << call.quantize.geometry.threads;
    return launched(kernel_of<T>(plan.layout, call.aligned, call.ahead), call.programs, threads, plan.pdl, stream, &call.quantize);
  });
}
