// The computing side of block_tile.cuh: one math group's sums, and how a K block is added to them.
#pragma once
#include "block_load.cuh"

namespace qm {

// The sums of one math group: rows of kWaves * 64, columns of one tile.
template <int kBn, int kWaves>
struct Sums {
  static constexpr int kRegs = kBn / 2;      // accumulators of 64 rows, per thread
  static constexpr int kBlocks = kBn / 8;    // blocks of eight columns
  static constexpr bool kOneScale = 128 % kBn == 0;

  float sum[kWaves][kRegs];

  // What a K block in flight needs for its promotion.
  struct Block {
    int stage;
    float sx[kWaves][2], sw[2];
  };

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int w = 0; w < kWaves; ++w)
#pragma unroll
      for (int i = 0; i < kRegs; ++i) sum[w][i] = 0.0f;
  }

  // Starts one K block of 64 rows. kInTurn: the groups start theirs in turn, so that one's products
  // queue behind the other's instead of sharing the tensor cores with them.
  template <bool kInTurn>
  __device__ __forceinline__ static void start(float (&tmp)[kRegs], uint64_t x, uint64_t w,
                                               int group) {
    wgmma_hold(tmp);
    if (kInTurn) named_barrier(2 + group, kMathThreads);
    wgmma_fence();
    Wgmma<kBn>::add(tmp, x, w, 0);
    Wgmma<kBn>::add(tmp, x + 2, w + 2, 1);
    Wgmma<kBn>::add(tmp, x + 4, w + 4, 1);
    Wgmma<kBn>::add(tmp, x + 6, w + 6, 1);
    wgmma_commit();
    if (kInTurn) named_barrier_arrive(3 - group, kMathThreads);
  }

  __device__ __forceinline__ void promote(int wave, float (&tmp)[kRegs], Block const& b,
                                          int split) {
    wgmma_hold(tmp);
    float scale[2][2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      scale[h][0] = b.sx[wave][h] * b.sw[0];
      scale[h][1] = kOneScale ? 0.0f : b.sx[wave][h] * b.sw[1];
    }
    // A tile begins at a multiple of kBn, so the border between two scales is a multiple of this.
    constexpr int kBorder = ((kBn & -kBn) < 128 ? (kBn & -kBn) : 128) / 8;
    float now[2];
#pragma unroll
    for (int j = 0; j < kBlocks; ++j) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        if (j % kBorder == 0) now[h] = kOneScale || j < split ? scale[h][0] : scale[h][1];
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          int const i = 4 * j + 2 * h + c;
          sum[wave][i] = fmaf(tmp[i], now[h], sum[wave][i]);
        }
      }
    }
  }
};

}  // namespace qm
