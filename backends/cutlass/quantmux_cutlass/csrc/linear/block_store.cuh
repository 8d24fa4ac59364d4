// From wgmma's fragments to rows of y: 16-byte stores straight from registers.
//
// A thread holds two neighbouring columns of eight: stored as they lie that would be 4 bytes a
// thread. Four neighbouring threads (a quad) hold the same row of the same eight columns, so they
// transpose four such blocks of eight columns among themselves: afterwards each thread has all eight
// columns of one block, and the quad writes 64 bytes of a row. No shared memory, no tensor map, any
// N and any row stride: what is not aligned or not whole goes by single elements.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace qm {

struct Output {
  void* y;
  int64_t row;        // elements between rows
  float const* bias;  // fp32 [N] or null
  int m, n;
  int half;    // 1 fp16, 0 bf16
  int vector;  // 1: y and its rows are multiples of 16 bytes
};

__device__ __forceinline__ uint32_t pack_pair(float low, float high, int half) {
  if (half) {
    __half2 const h = __floats2half2_rn(low, high);
    return *reinterpret_cast<uint32_t const*>(&h);
  }
  __nv_bfloat162 const b = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<uint32_t const*>(&b);
}

// w[i] of quad lane q becomes w[q] of quad lane i.
__device__ __forceinline__ void transpose_quad(uint32_t (&w)[4], int lane) {
  bool const odd = lane & 1, high = lane & 2;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    uint32_t const got = __shfl_xor_sync(~0u, odd ? w[i] : w[i + 1], 1);
    if (odd) w[i] = got;
    else w[i + 1] = got;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    uint32_t const got = __shfl_xor_sync(~0u, high ? w[i] : w[i + 2], 2);
    if (high) w[i] = got;
    else w[i + 2] = got;
  }
}

// Adds the bias to `kBlocks` blocks of eight columns that begin at `column`: v[4 * j + 2 * h + c] is
// block j, row h, column 8 * j + 2 * (lane % 4) + c.
template <int kBlocks>
__device__ __forceinline__ void add_bias(Output const& out, float (&v)[4 * kBlocks], int column,
                                         int lane) {
#pragma unroll
  for (int i = 0; i < 2 * kBlocks; ++i) {
    int const c = column + 8 * (i / 2) + 2 * (lane & 3) + i % 2;
    float const b = c < out.n ? __ldg(out.bias + c) : 0.0f;
    v[4 * (i / 2) + i % 2] += b;
    v[4 * (i / 2) + 2 + i % 2] += b;
  }
}

// Stores them, in rows `row` and `row` + 8. Whole warps only. kWhole: all columns exist, and y takes
// vectors; only rows may be beyond the last.
template <int kBlocks, bool kWhole>
__device__ __forceinline__ void store_blocks(Output const& out, float const (&v)[4 * kBlocks],
                                             int row, int column, int lane) {
  int const quad = lane & 3, c = column + 8 * quad;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    uint32_t w[4] = {};
#pragma unroll
    for (int j = 0; j < kBlocks; ++j) {
      w[j] = pack_pair(v[4 * j + 2 * h], v[4 * j + 2 * h + 1], out.half);
    }
    transpose_quad(w, lane);
    int const r = row + 8 * h;
    uint16_t* const to = static_cast<uint16_t*>(out.y) + r * out.row + c;
    bool const mine = quad < kBlocks && r < out.m;
    if constexpr (kWhole) {
      if (mine) *reinterpret_cast<uint4*>(to) = make_uint4(w[0], w[1], w[2], w[3]);
    } else if (mine && out.vector && c + 8 <= out.n) {
      *reinterpret_cast<uint4*>(to) = make_uint4(w[0], w[1], w[2], w[3]);
    } else if (mine) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (c + i < out.n) to[i] = static_cast<uint16_t>(w[i / 2] >> (16 * (i % 2)));
      }
    }
  }
}

}  // namespace qm
