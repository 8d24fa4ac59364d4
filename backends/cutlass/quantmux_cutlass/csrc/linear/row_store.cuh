// From wgmma's sums to rows of y with one scale a row and one a column: 16-byte stores straight from
// registers, as in block_store.cuh: the four threads of a quad hold the same row, and transpose four
// blocks of eight columns among themselves until each has one whole block.
#pragma once
#include "block_store.cuh"

namespace qm {

struct RowOutput {
  void* y;
  int64_t row;        // elements between rows
  float const* bias;  // fp32 [N] or null
  int m, n;
  int half;    // 1 fp16, 0 bf16
  int vector;  // 1: y and its rows are multiples of 16 bytes
};

// Two neighbouring floats of shared memory.
__device__ __forceinline__ float2 shared_pair(uint32_t address) {
  float2 v;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(address));
  return v;
}

// Stores `kBlocks` (1 to 4) blocks of eight columns, from block `first` of the tile on, of all
// waves of 64 rows: sum[wave][4 * j + 2 * h + c] is block j, row `row` + 64 * wave + 8 * h, column
// 8 * j + 2 * (lane % 4) + c of the tile, which begins at `column`. At `scales` lie the tile's
// `width` scales of columns, then as many values of the bias. Whole warps only.
template <int kBlocks, int kWaves, int kRegs>
__device__ __forceinline__ void store_columns(RowOutput const& out,
                                              float const (&sum)[kWaves][kRegs], int first,
                                              float const (&sx)[kWaves][2], uint32_t scales,
                                              int width, int row, int column, int lane) {
  int const quad = lane & 3;
  float2 scale[kBlocks], bias[kBlocks];
#pragma unroll
  for (int j = 0; j < kBlocks; ++j) {
    uint32_t const at = scales + 4 * (8 * (first + j) + 2 * quad);
    scale[j] = shared_pair(at);
    bias[j] = shared_pair(at + 4 * width);
  }
  int const c = column + 8 * (first + quad);
#pragma unroll
  for (int wave = 0; wave < kWaves; ++wave)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      uint32_t w[4] = {};
#pragma unroll
      for (int j = 0; j < kBlocks; ++j) {
        float const* const a = &sum[wave][4 * (first + j) + 2 * h];
        w[j] = pack_pair(fmaf(sx[wave][h], scale[j].x * a[0], bias[j].x),
                         fmaf(sx[wave][h], scale[j].y * a[1], bias[j].y), out.half);
      }
      transpose_quad(w, lane);
      int const r = row + 64 * wave + 8 * h;
      if (quad >= kBlocks || r >= out.m || c >= out.n) continue;
      uint16_t* const to = static_cast<uint16_t*>(out.y) + r * out.row + c;
      if (out.vector && c + 8 <= out.n) {
        *reinterpret_cast<uint4*>(to) = make_uint4(w[0], w[1], w[2], w[3]);
      } else {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          if (c + i < out.n) to[i] = static_cast<uint16_t>(w[i / 2] >> (16 * (i % 2)));
        }
      }
    }
}

}  // namespace qm
