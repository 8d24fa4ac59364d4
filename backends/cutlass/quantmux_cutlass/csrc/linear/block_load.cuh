// The loading side of block_tile.cuh: how a CTA's shared memory is laid out, and the three warps that
// fill it.
//
// Each warp brings one thing of every K block: w, x, or the scales of x. One warp for all three
// needed about 900 clocks a block, mostly latency of its own instructions, where the tensor cores
// need 512 for a tile of 128 x 128: it was what everybody waited for (H200, 2026-11-21).
#pragma once
#include "block_order.cuh"
#include "block_store.cuh"
#include "hopper.cuh"

namespace qm {

constexpr int kThreads = 384, kMathThreads = 256, kMaxStages = 16, kBarrierBytes = 256;
constexpr int kSmemBytes = 232448;  // of one CTA on sm_90

struct BlockCall {
  float const* sx;       // scale of (row, block) at row * sx_row + block * sx_block
  int64_t sx_row, sx_block;
  int sx_rows;           // with sx_bulk: rows that exist in memory, a multiple of 4
  int sx_bulk;           // 1: sx_row is 1 and columns are multiples of 16 bytes
  float const* sw;       // scale of (column / 128, block) at column / 128 * sw_row + block
  int64_t sw_row;
  int sw_rows;
  Output out;
  Order order;
  int units;             // tiles, or what clusters compute at a time
  int k_blocks;
  int sharing, cluster;  // Sharing; CTAs of a cluster
};

template <int kBn, int kWaves, bool kHalves>
struct BlockShape {
  static constexpr int kColumns = kBn;
  static constexpr int kBm = kHalves ? 64 : 128 * kWaves;
  static constexpr int kXBytes = kBm * 128, kWBytes = kBn * 128, kSBytes = kBm * 4;
  static constexpr int kStageBytes = kXBytes + kWBytes + kSBytes;
  static constexpr int kFit = (kSmemBytes - kBarrierBytes) / kStageBytes;
  static constexpr int kMost = kFit < kMaxStages ? kFit : kMaxStages;
  // With kHalves a group takes every other block, so a stage must come back to the group that had it: else
  // nothing orders its wait behind the round before, whose parity is that of the round after.
  static constexpr int kStages = kHalves ? kMost & ~1 : kMost;
  static constexpr int kBytes = kStages * kStageBytes + kBarrierBytes;
  static_assert(kBn % 16 == 0 && kBn <= 256);
  static_assert(!kHalves || kWaves == 1);
};

// A position in the ring of stages.
template <class Shape>
struct Ring {
  int stage = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void next() {
    if (++stage == Shape::kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// Tiles first, as they begin at multiples of 1024; then scales; then the barriers.
template <class Shape>
struct Smem {
  static constexpr int kW = Shape::kStages * Shape::kXBytes;
  static constexpr int kScales = kW + Shape::kStages * Shape::kWBytes;
  static constexpr int kFull = kScales + Shape::kStages * Shape::kSBytes;
  static constexpr int kEmpty = kFull + 8 * kMaxStages;
  uint32_t base;
  __device__ uint32_t x(int s) const { return base + s * Shape::kXBytes; }
  __device__ uint32_t w(int s) const { return base + kW + s * Shape::kWBytes; }
  __device__ uint32_t scales(int s) const { return base + kScales + s * Shape::kSBytes; }
  __device__ uint32_t full(int s) const { return base + kFull + 8 * s; }
  __device__ uint32_t empty(int s) const { return base + kEmpty + 8 * s; }
};

// How many arrivals fill a stage: w and x, and of scales one TMA transfer or 32 lanes' copies.
__device__ __forceinline__ int arrivals_to_fill(BlockCall const& call) {
  return call.sx_bulk ? 3 : 34;
}

// The K blocks [first, last) of this CTA.
struct KRange {
  int first, last;
  __device__ KRange(BlockCall const& call, int rank) : first(0), last(call.k_blocks) {
    if (call.sharing == kSplitK) {
      first = call.k_blocks * rank / call.cluster;
      last = call.k_blocks * (rank + 1) / call.cluster;
    }
  }
};

// Calls load(stage, tile, block) for every K block of this CTA's tiles, when its stage is empty.
template <class Shape, class Load>
__device__ __forceinline__ void for_each_block(BlockCall const& call, Smem<Shape> smem, int rank,
                                               Load load) {
  KRange const range(call, rank);
  int const clusters = gridDim.x / call.cluster;
  Ring<Shape> ring;
  for (int unit = blockIdx.x / call.cluster; unit < call.units; unit += clusters) {
    Tile const tile = tile_of(call.order, unit, call.sharing, rank);
    for (int block = range.first; block < range.last; ++block, ring.next()) {
      barrier_wait(smem.empty(ring.stage), ring.phase ^ 1);
      load(ring.stage, tile, block);
    }
  }
  // A neighbour tells these barriers when it has read what was loaded for both: a CTA must not end
  // before it has heard of all.
  if (call.sharing == kShareW || call.sharing == kShareX) {
    for (int s = 0; s < Shape::kStages; ++s, ring.next()) {
      barrier_wait(smem.empty(ring.stage), ring.phase ^ 1);
    }
  }
}

// Boxes of one operand: rows `row` of [rows, 128] tiles of `kRows`; by pairs, each CTA loads half
// for both. `which` gives the tile's index along its dimension.
template <class Shape, int kRows, class At, class Index>
__device__ __forceinline__ void load_boxes(BlockCall const& call, CUtensorMap const* map,
                                           Smem<Shape> smem, int rank, bool pairs, At at,
                                           Index index) {
  if (pairs) {
    int const part = rank * (kRows / 2);
    for_each_block<Shape>(call, smem, rank, [&](int stage, Tile tile, int block) {
      barrier_arrive_expect(smem.full(stage), kRows * 128);
      tma_load_multicast(at(stage) + part * 128, map, block * 128, index(tile) * kRows + part,
                         smem.full(stage), 3, kEvictNormal);
    });
  } else {
    for_each_block<Shape>(call, smem, rank, [&](int stage, Tile tile, int block) {
      barrier_arrive_expect(smem.full(stage), kRows * 128);
      tma_load(at(stage), map, block * 128, index(tile) * kRows, smem.full(stage), kEvictNormal);
    });
  }
}

// w does not depend on the kernel before: these loads do not wait for it.
template <class Shape>
__device__ __forceinline__ void load_w(BlockCall const& call, CUtensorMap const* map,
                                       Smem<Shape> smem, int rank) {
  if (elect_one()) {
    load_boxes<Shape, Shape::kColumns>(
        call, map, smem, rank, call.sharing == kShareW, [&](int s) { return smem.w(s); },
        [](Tile tile) { return tile.n; });
  }
  __syncwarp();
  dependency_wait();
}

template <class Shape>
__device__ __forceinline__ void load_x(BlockCall const& call, CUtensorMap const* map,
                                       Smem<Shape> smem, int rank) {
  dependency_wait();
  dependency_launch();
  if (elect_one()) {
    load_boxes<Shape, Shape::kBm>(
        call, map, smem, rank, call.sharing == kShareX, [&](int s) { return smem.x(s); },
        [](Tile tile) { return tile.m; });
  }
  __syncwarp();
}

template <class Shape>
__device__ __forceinline__ void load_scales(BlockCall const& call, Smem<Shape> smem, int rank,
                                            int lane) {
  dependency_wait();
  if (call.sx_bulk) {
    if (elect_one()) {
      for_each_block<Shape>(call, smem, rank, [&](int stage, Tile tile, int block) {
        int const row = tile.m * Shape::kBm;
        int const rows = min(call.sx_rows - row, Shape::kBm);  // multiples of 4: 16 bytes
        if (rows > 0) {
          barrier_arrive_expect(smem.full(stage), 4 * rows);
          bulk_load(smem.scales(stage), call.sx + row + block * call.sx_block, 4 * rows,
                    smem.full(stage));
        } else {
          barrier_arrive(smem.full(stage));
        }
      });
    }
    __syncwarp();
    return;
  }
  for_each_block<Shape>(call, smem, rank, [&](int stage, Tile tile, int block) {
    int const row = tile.m * Shape::kBm;
    for (int i = lane; i < Shape::kBm; i += 32) {
      bool const valid = row + i < call.out.m;
      float const* const from =
          call.sx + (valid ? (row + i) * call.sx_row + block * call.sx_block : 0);
      copy4_async(smem.scales(stage) + 4 * i, from, valid);
    }
    copy_async_arrive(smem.full(stage));
  });
}

}  // namespace qm
