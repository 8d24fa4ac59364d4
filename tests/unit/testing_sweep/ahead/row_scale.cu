// Per-token FP8: each block takes one row, the tail beyond n is masked.
#include <cuda_bf16.h>
#include <cuda_fp8.h>

extern "C" __global__ void row_scale(const __nv_bfloat16* x, __nv_fp8_e4m3* codes, float* scales,
                                     int n, float eps) {
  __shared__ float greatest[32];
  const __nv_bfloat16* row = x + static_cast<long long>(blockIdx.x) * n;
  float amax = 0.0f;
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    amax = fmaxf(amax, fabsf(__bfloat162float(row[i])));
  }
  for (int step = 16; step > 0; step /= 2) {
    amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, step));
  }
  if (threadIdx.x % 32 == 0) greatest[threadIdx.x / 32] = amax;
  __syncthreads();
  for (int i = 0; i < blockDim.x / 32; ++i) amax = fmaxf(amax, greatest[i]);
  const float scale = __fdiv_rn(fmaxf(amax, eps), 448.0f);
  if (threadIdx.x == 0) scales[blockIdx.x] = scale;
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    codes[static_cast<long long>(blockIdx.x) * n + i] =
        __nv_fp8_e4m3(__fdiv_rn(__bfloat162float(row[i]), scale));
  }
}
