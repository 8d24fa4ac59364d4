// y = x · w^T for FP8 with one scale a tensor or a row, on Hopper, for many tokens.
//
// A persistent kernel: 2 math groups of 128 threads and one warp that loads. K goes in blocks of
// 128, the width of the 128-byte swizzle; a ring of stages holds as many blocks of x and w as fit.
//
//   kPingPong    each group has its own tile of 64 · kWaves rows by kBn columns. While one stores
//                its tile the other multiplies, so the tensor cores never wait for stores. The
//                loading warp fills the ring tile after tile. A group begins only when the other
//                has seen the last block before its own: an mbarrier tells phases apart by their
//                parity alone, so nobody may wait for a block more than one round ahead.
//   otherwise    both groups share a tile of 128 · kWaves rows: half the traffic of w for the
//                same registers, and stores that nothing hides.
//   kExact       the tensor core's accumulator keeps only some 13 bits below its largest addend.
//                Here it sums 128 products from zero, which are then added to fp32 registers; the
//                two groups are out of step, so one multiplies while the other adds.
//
// A cluster of two (block_order.cuh) loads what its tiles have in common once, by multicast.
//
// kBn is any multiple of 16: the time of a launch is whole waves of tiles, and among many widths
// there is one with which the last wave is nearly full.
//
// y = round(s_x · (s_w · sum) + bias). Scales of x are read when a tile begins; those of w and the
// bias come by cp.async into shared memory while the tile is multiplied. No sum depends on which
// thread comes first: the same input gives the same bits.
#pragma once
#include "block_order.cuh"
#include "row_store.cuh"
#include "hopper.cuh"

namespace qm {

constexpr int kRowThreads = 384, kRowMaxStages = 16;
constexpr int kRowSmem = 232448;  // of one CTA on sm_90

struct RowCall {
  float const* sx;  // scale of row r at r * sx_step
  float const* sw;  // scale of column c at c * sw_step
  int sx_step, sw_step;
  RowOutput out;
  Order order;
  int units;  // tiles, or pairs of tiles
  int k_blocks;
  int sharing;  // Sharing
  int splits;   // of K (row_split.cuh)
};

template <int kBn, int kWaves, bool kPingPong, bool kExact>
struct RowShape {
  static constexpr int kBm = 64 * kWaves * (kPingPong ? 1 : 2);
  static constexpr int kXBytes = kBm * 128, kWBytes = kBn * 128;
  static constexpr int kStageBytes = kXBytes + kWBytes;
  static constexpr int kScaleBytes = 2 * 2 * kBn * 4;  // a group's scales of w, its bias
  static constexpr int kBarrierBytes = 2 * kRowMaxStages * 8;
  static constexpr int kFit = (kRowSmem - kScaleBytes - kBarrierBytes) / kStageBytes;
  static constexpr int kStages = kFit < kRowMaxStages ? kFit : kRowMaxStages;
  static constexpr int kBytes = kStages * kStageBytes + kScaleBytes + kBarrierBytes;
  static constexpr int kRegs = kBn / 2;  // accumulators of 64 rows, per thread
  static constexpr int kSums = kRegs * kWaves + (kExact ? kRegs : 0);
  static_assert(kBn % 16 == 0 && kBn <= 256 && kSums <= 200 && kStages >= 3);
  static_assert(!(kExact && kPingPong));

  // Shared memory: x of all stages, w of all stages (both in multiples of 1024), scales, barriers.
  static __device__ uint32_t x(uint32_t base, int s) { return base + s * kXBytes; }
  static __device__ uint32_t w(uint32_t base, int s) {
    return base + kStages * kXBytes + s * kWBytes;
  }
  static __device__ uint32_t scales(uint32_t base, int group) {
    return base + kStages * kStageBytes + group * (kScaleBytes / 2);
  }
  static __device__ uint32_t full(uint32_t base, int s) {
    return base + kStages * kStageBytes + kScaleBytes + 8 * s;
  }
  static __device__ uint32_t empty(uint32_t base, int s) { return full(base, s) + 8 * kRowMaxStages; }
};

// A position in the ring.
template <int kStages>
struct RowRing {
  int stage = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void next() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
  __device__ __forceinline__ void skip(int blocks) {
    int const at = stage + blocks;
    phase ^= (at / kStages) & 1;
    stage = at % kStages;
  }
};

// The loading warp. All of its lanes walk the loop and one of them loads: what the loads need is
// then the same for the warp, and the compiler keeps it in uniform registers, as the TMA unit's
// instructions want it, instead of making it uniform before every load.
template <class Shape, int kBn>
__device__ __forceinline__ void row_produce(RowCall const& call, CUtensorMap const* x_map,
                                            CUtensorMap const* w_map, uint32_t base, int rank,
                                            int cluster) {
  int const clusters = gridDim.x / cluster, first = blockIdx.x / cluster;
  bool const leader = elect_one();
  RowRing<Shape::kStages> ring;
  auto load_w = [&](int s, Tile tile, int block) {
    if (call.sharing == kShareW) {
      int const part = rank * (kBn / 2);
      tma_load_multicast(Shape::w(base, s) + part * 128, w_map, block * 128, tile.n * kBn + part,
                         Shape::full(base, s), 3, kEvictNormal);
    } else {
      tma_load(Shape::w(base, s), w_map, block * 128, tile.n * kBn, Shape::full(base, s),
               kEvictNormal);
    }
  };
  auto load_x = [&](int s, Tile tile, int block) {
    int const row = tile.m * Shape::kBm;
    if (call.sharing == kShareX) {
      int const part = rank * (Shape::kBm / 2);
      tma_load_multicast(Shape::x(base, s) + part * 128, x_map, block * 128, row + part,
                         Shape::full(base, s), 3, kEvictNormal);
    } else {
      tma_load(Shape::x(base, s), x_map, block * 128, row, Shape::full(base, s), kEvictNormal);
    }
  };

  // The first blocks of w do not depend on the kernel before: they go out before the wait for it.
  int ahead = 0;
  if (first < call.units) {
    Tile const tile = tile_of(call.order, first, call.sharing, rank);
    ahead = call.k_blocks < Shape::kStages ? call.k_blocks : Shape::kStages;
    for (int i = 0; i < ahead; ++i) {
      if (leader) {
        barrier_arrive_expect(Shape::full(base, i), Shape::kStageBytes);
        load_w(i, tile, i);
      }
      __syncwarp();
    }
  }
  dependency_wait();
  dependency_launch();
  for (int unit = first; unit < call.units; unit += clusters) {
    Tile const tile = tile_of(call.order, unit, call.sharing, rank);
    for (int block = 0; block < call.k_blocks; ++block, ring.next()) {
      bool const asked = ahead > 0;
      if (asked) {
        --ahead;
      } else {
        barrier_wait(Shape::empty(base, ring.stage), ring.phase ^ 1);
      }
      if (leader) {
        if (!asked) {
          barrier_arrive_expect(Shape::full(base, ring.stage), Shape::kStageBytes);
          load_w(ring.stage, tile, block);
        }
        load_x(ring.stage, tile, block);
      }
      __syncwarp();
    }
  }
}

// One math group's registers for one tile.
template <class Shape, int kBn, int kWaves, bool kExact>
struct RowSums {
  static constexpr int kRegs = Shape::kRegs;
  float sum[kWaves][kRegs];

  __device__ __forceinline__ void hold() {
#pragma unroll
    for (int w = 0; w < kWaves; ++w) wgmma_hold(sum[w]);
  }

  // All K blocks of a tile. `x_row` is the group's first row within the stage's x; `release`
  // says that this group has read a stage, `seen` that all blocks of the tile have arrived.
  template <class Release, class Seen>
  __device__ __forceinline__ void multiply(uint32_t base, RowRing<Shape::kStages>& ring,
                                           int k_blocks, int x_row, Release release, Seen seen) {
    if constexpr (kExact) {
#pragma unroll
      for (int w = 0; w < kWaves; ++w)
#pragma unroll
        for (int i = 0; i < kRegs; ++i) sum[w][i] = 0.0f;
      for (int block = 0; block < k_blocks; ++block, ring.next()) {
        barrier_wait(Shape::full(base, ring.stage), ring.phase);
        uint64_t const x = descriptor_128b(Shape::x(base, ring.stage) + x_row * 128);
        uint64_t const w = descriptor_128b(Shape::w(base, ring.stage));
#pragma unroll
        for (int wave = 0; wave < kWaves; ++wave) {
          float part[kRegs];
          wgmma_hold(part);
          wgmma_fence();
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            Wgmma<kBn>::add(part, x + wave * 512 + 2 * k, w + 2 * k, k > 0);
          }
          wgmma_commit();
          wgmma_wait<0>();
          wgmma_hold(part);
          if (wave == kWaves - 1) release(ring.stage);
#pragma unroll
          for (int i = 0; i < kRegs; ++i) sum[wave][i] += part[i];
        }
      }
    } else {
      int before = 0;
      hold();
      for (int block = 0; block < k_blocks; ++block, ring.next()) {
        barrier_wait(Shape::full(base, ring.stage), ring.phase);
        uint64_t const x = descriptor_128b(Shape::x(base, ring.stage) + x_row * 128);
        uint64_t const w = descriptor_128b(Shape::w(base, ring.stage));
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; ++k)
#pragma unroll
          for (int wave = 0; wave < kWaves; ++wave) {
            // 64 rows of 128 bytes further on: 512 units of 16 bytes
            Wgmma<kBn>::add(sum[wave], x + wave * 512 + 2 * k, w + 2 * k, block > 0 || k > 0);
          }
        wgmma_commit();
        if (block > 0) {
          wgmma_wait<1>();
          release(before);
        }
        before = ring.stage;
      }
      seen();
      wgmma_wait<0>();
      hold();
      release(before);
    }
  }
};

template <int kBn, int kWaves, bool kPingPong, bool kExact>
__global__ void __launch_bounds__(kRowThreads, 1)
    row_gemm(__grid_constant__ RowCall const call, __grid_constant__ CUtensorMap const x_map,
             __grid_constant__ CUtensorMap const w_map) {
  using Shape = RowShape<kBn, kWaves, kPingPong, kExact>;
  extern __shared__ __align__(1024) unsigned char memory[];
  uint32_t const base = smem_address(memory);
  // By shuffle, so that the compiler knows them to be the same for all of a warp.
  int const warp = __shfl_sync(~0u, threadIdx.x / 32, 0), group = warp / 4;
  int const lane = threadIdx.x % 32;
  bool const pair = call.sharing != kAlone;
  int const cluster = pair ? 2 : 1;
  int const rank = pair ? cluster_rank() : 0;

  if (threadIdx.x == 0) {
    int const readers = (kPingPong ? 4 : 8) * cluster;  // warps
#pragma unroll 1
    for (int s = 0; s < Shape::kStages; ++s) {
      barrier_init(Shape::full(base, s), 1);
      barrier_init(Shape::empty(base, s), readers);
    }
    barrier_init_visible();
    tensor_map_prefetch(&x_map);
    tensor_map_prefetch(&w_map);
  }
  __syncthreads();
  if (pair) {
    cluster_arrive();
    cluster_wait();
  }

  if (group == 2) {
    registers_down<24>();
    if (warp == 8) {
      row_produce<Shape, kBn>(call, &x_map, &w_map, base, rank, cluster);
    } else {
      dependency_wait();
    }
  } else {
    registers_up<240>();
    dependency_wait();
    int const clusters = gridDim.x / cluster;
    int const thread = threadIdx.x % 128;
    int const x_row = kPingPong ? 0 : group * 64 * kWaves;
    // The row of wave 0 that registers 4 * j and 4 * j + 1 hold; the others hold that plus 8.
    int const first_row = x_row + 16 * (warp % 4) + lane / 4;
    uint32_t const scales = Shape::scales(base, group);
    RowRing<Shape::kStages> ring;
    if (kPingPong && group == 1) ring.skip(call.k_blocks);
    int const step = clusters * (kPingPong ? 2 : 1);
    int unit = blockIdx.x / cluster + (kPingPong ? group * clusters : 0);

    for (; unit < call.units; unit += step) {
      Tile const tile = tile_of(call.order, unit, call.sharing, rank);
      int const column = tile.n * kBn, row = tile.m * Shape::kBm + first_row;
      // All of the group have read the scales of the tile before.
      named_barrier(1 + group, 128);
      for (int i = thread; i < kBn; i += 128) {
        bool const valid = column + i < call.out.n;
        copy4_async(scales + 4 * i, call.sw + (valid ? (column + i) * call.sw_step : 0), valid);
        bool const biased = valid && call.out.bias != nullptr;
        copy4_async(scales + 4 * (kBn + i), biased ? call.out.bias + column + i : call.sw, biased);
      }
      float sx[kWaves][2];
#pragma unroll
      for (int w = 0; w < kWaves; ++w)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          int const r = row + 64 * w + 8 * h;
          sx[w][h] = r < call.out.m ? call.sx[static_cast<int64_t>(r) * call.sx_step] : 0.0f;
        }

      // The tile before this one is the other group's; so is the one after it.
      if (kPingPong && unit != static_cast<int>(blockIdx.x) / cluster) {
        named_barrier(3 + group, 256);
      }
      auto const release = [&](int stage) {
        // A stage is free when all that read it are done, in both CTAs of a pair: each writes
        // into the other's.
        if (pair) {
          if (lane < 2) barrier_arrive_at(Shape::empty(base, stage), lane);
        } else if (lane == 0) {
          barrier_arrive(Shape::empty(base, stage));
        }
      };
      auto const seen = [&] {
        if (kPingPong && unit + clusters < call.units) named_barrier_arrive(4 - group, 256);
      };
      RowSums<Shape, kBn, kWaves, kExact> s;
      s.multiply(base, ring, call.k_blocks, x_row, release, seen);
      if (kPingPong) ring.skip(call.k_blocks);

      asm volatile("cp.async.wait_all;" ::: "memory");
      named_barrier(1 + group, 128);
      constexpr int kBlocks = kBn / 8;
#pragma unroll
      for (int g = 0; g < kBlocks; g += 4) {
        constexpr int kRest = kBlocks % 4;
        if (kRest != 0 && g + 4 > kBlocks) {
          store_columns<kRest == 0 ? 4 : kRest, kWaves>(call.out, s.sum, g, sx, scales, kBn, row,
                                                        column, lane);
        } else {
          store_columns<4, kWaves>(call.out, s.sum, g, sx, scales, kBn, row, column, lane);
        }
      }
    }
  }
  // A CTA whose shared memory or barriers its neighbour still uses must not end.
  if (pair) {
    __syncwarp();
    cluster_arrive();
    cluster_wait();
  }
}

}  // namespace qm
