// The two kernels: quantizing, and before it, where the global scale is computed, the search for the
// largest finite magnitude of x.
//
// The search stores one number a program and the programs of the second launch take the maximum of
// these: a maximum is the same in any order, nothing has to be reset, no atomics. The second launch
// takes the tiles from the last to the first, since what was read last is what L2 still has.
//
// Programs reach over the padded extents of codes *and* of scales; what is outside of the matrix is
// stored as 0. Every program waits for the kernel before it (docs/decisions/0010), then releases the
// next one.
#pragma once
#include "nvfp4_call.cuh"

namespace qm_nvfp4 {

constexpr int kMostThreads = 256;

// Programs of 256 threads that a multiprocessor shall have room for: registers are limited so. fp32
// blocks are twice as large; asking for the next block early takes some, too.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int kShare = 3;  // sm_120 has 1536 threads; the conversion there needs few registers
#else
constexpr int kShare = 4;
#endif

// Waits once `known` is known; it is never all ones, so every thread does
__device__ __forceinline__ void wait_for_the_kernel_before(uint64_t known = 0) {
  asm volatile("{\n.reg .pred known;\nsetp.ne.u64 known, %0, -1;\n@known griddepcontrol.wait;\n}" ::"l"(known) : "memory");
}
__device__ __forceinline__ void release_the_next() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// The largest of one number a thread, in every thread
__device__ __forceinline__ uint32_t largest_of_program(uint32_t mine, uint32_t* shared, int warps) {
  mine = __reduce_max_sync(0xFFFFFFFFu, mine);
  if ((threadIdx.x & 31) == 0) shared[threadIdx.x >> 5] = mine;
  __syncthreads();
  uint32_t const other = int(threadIdx.x & 31) < warps ? shared[threadIdx.x & 31] : 0;
  return __reduce_max_sync(0xFFFFFFFFu, other);
}

struct Overlap {
  __device__ __forceinline__ void operator()(uint64_t known) const {
    wait_for_the_kernel_before(known);
    release_the_next();
  }
};

// g: given, or of what the programs of the search found
struct GlobalScale {
  Arguments const& p;
  uint32_t* shared;

  __device__ __forceinline__ float operator()() const {
    if (p.parts == 0) return *static_cast<float const*>(p.source);
    uint32_t const* parts = static_cast<uint32_t const*>(p.source);
    uint32_t most = 0;
#pragma unroll 4
    for (int i = threadIdx.x; i < p.parts; i += blockDim.x) most = max(most, __ldcg(parts + i));
    return global_of(largest_of_program(most, shared, blockDim.x >> 5));
  }
};

template <class T, int kLayout, bool kAligned, bool kAhead>
__global__ void __launch_bounds__(kMostThreads, sizeof(T) == 4 ? kShare : kAhead ? kShare + 1 : kShare + 2) quantize_kernel(__grid_constant__ Arguments const p) {
  __shared__ uint32_t shared[kMostThreads / 32];
  int32_t const program = p.parts ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
  quantize_thread<T, kLayout, kAligned, kAhead>(p, program, threadIdx.x, Overlap{}, GlobalScale{p, shared});
}

// The bits of the largest finite magnitude of eight values
template <class T>
__device__ __forceinline__ uint32_t finite_bits(float v) {
  uint32_t const bits = as_bits(v) & kMagnitude;
  return bits < kInfinity ? bits : 0;
}

// One half of a block, read alone
template <class T>
struct Eight {
  uint32_t w[sizeof(T) * 2];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (auto& word : w) word = 0;
  }
  __device__ __forceinline__ void read(T const* at) {
#pragma unroll
    for (int i = 0; i < int(sizeof(T)) / 2; ++i) {
      uint4 const a = *(reinterpret_cast<uint4 const*>(at) + i);
      w[4 * i] = a.x; w[4 * i + 1] = a.y; w[4 * i + 2] = a.z; w[4 * i + 3] = a.w;
    }
  }
  __device__ __forceinline__ uint32_t largest() const {
    uint32_t most = 0;
    if constexpr (sizeof(T) == 2) {
      uint32_t const all = larger_halves(T{}, larger_halves(T{}, w[0], w[1]), larger_halves(T{}, w[2], w[3]));
      most = as_bits(larger_magnitude(half_of<T>(all, 0), half_of<T>(all, 1)));
      if (most >= kInfinity) {  // rare: leave out what is not finite
        most = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) most = max(most, max(finite_bits<T>(half_of<T>(w[i], 0)), finite_bits<T>(half_of<T>(w[i], 1))));
      }
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) most = max(most, finite_bits<T>(as_float(w[i])));
    }
    return most;
  }
};

template <class T, bool kAligned>
__global__ void __launch_bounds__(kSearchThreads) search_kernel(__grid_constant__ SearchArguments const p) {
  __shared__ uint32_t shared[kSearchThreads / 32];
  wait_for_the_kernel_before();
  release_the_next();
  int const side = threadIdx.x & ((1 << p.threads_log) - 1), down = threadIdx.x >> p.threads_log;
  int const step = kSearchThreads >> p.threads_log;
  uint32_t most = 0;
  for (int32_t tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
    int32_t const r = quotient(tile, p.across);
    int32_t const column = (((tile - r * p.across.by) << p.threads_log) + side) * 8;
    int32_t const row = r * (step * kSearchRows) + down;
    Eight<T> eight[kSearchRows];
#pragma unroll
    for (int i = 0; i < kSearchRows; ++i) {
      T const* at = static_cast<T const*>(p.x) + int64_t(row + i * step) * p.row_stride;
      bool const inside = row + i * step < p.m && column < p.n;
      eight[i].clear();
      if (kAligned && inside && column + 8 <= p.n) {
        eight[i].read(at + column);
      } else if (inside) {
        int64_t const stride = kAligned ? 1 : p.column_stride;
        for (int j = column; j < min(column + 8, p.n); ++j) most = max(most, finite_bits<T>(widened(at[j * stride])));
      }
    }
#pragma unroll
    for (int i = 0; i < kSearchRows; ++i) most = max(most, eight[i].largest());
  }
  most = largest_of_program(most, shared, kSearchThreads / 32);
  if (threadIdx.x == 0) p.partial[blockIdx.x] = most;
}

}  // namespace qm_nvfp4
