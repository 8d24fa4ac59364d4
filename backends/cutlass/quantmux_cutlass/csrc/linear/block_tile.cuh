// y = x * w^T for FP8 with a scale for 1 x 128 of x and for 128 x 128 of w, on Hopper.
//
// A tile of y is 128 * kWaves rows (64 with kHalves) by kBn columns. K goes in blocks of 128, which
// is also the width of a scale and of the 128-byte swizzle:
//
//   producer warp    TMA brings x [rows, 128] and w [kBn, 128] of one K block, and the rows' scales
//                    of that block, into a ring of stages; it runs ahead over tiles too, so that
//                    the next tile is loading while this one is stored
//   2 math groups    of 128 threads. Four wgmma (K = 32 each) sum one K block of 64 rows in the
//                    tensor core from zero; the sum is then added to fp32 registers times
//                    sx[row, block] * sw[column / 128, block]. The tensor core's own accumulator
//                    keeps only 13 bits or so below its largest addend: 128 products are what the
//                    scheme's exact accumulation allows it.
//
// While one group promotes, the other's wgmma keep the tensor cores busy. With kDeep a group also
// starts the next K block before it promotes the last one (a second set of accumulators), which
// closes the gap without relying on the two groups being out of step.
//
// kBn need not divide 128: then a tile can lie over two of w's scales, and the columns from
// `split` on take the second. It must not lie over three: kBn <= 128 + gcd(kBn, 128).
//
// A cluster (Sharing, block_order.cuh) either loads what its two tiles have in common once, by
// multicast, or divides K of one tile; the parts are then summed through distributed shared
// memory in the order of the ranks, and each CTA stores its share of the columns. Likewise
// kHalves: the two groups work on the same 64 rows and take turns at K blocks. No sum depends on
// who comes first: the same input gives the same bits.
#pragma once
#include "block_order.cuh"
#include "block_store.cuh"
#include "hopper.cuh"

#ifndef QM_ORDER
#define QM_ORDER 0
#endif

namespace qm {

constexpr int kThreads = 384, kMathThreads = 256, kMaxStages = 16, kBarrierBytes = 256;
constexpr int kSmemBytes = 232448;  // of one CTA on sm_90

struct BlockCall {
  float const* sx;      // scale of (row, block) at row * sx_row + block * sx_block
  int64_t sx_row, sx_block;
  int sx_rows;          // with sx_bulk: rows that exist in memory, a multiple of 4
  int sx_bulk;          // 1: sx_row is 1 and columns are multiples of 16 bytes
  float const* sw;      // scale of (column / 128, block) at column / 128 * sw_row + block
  int64_t sw_row;
  int sw_rows;
  Output out;
  Order order;
  int units;            // tiles, or what clusters compute at a time
  int k_blocks;
  int stages;
  int sharing, cluster; // Sharing; CTAs of a cluster
};

// What becomes of a K block's sum.
enum Scales : int {
  kBlockScales = 0,  // times the scales of its blocks, to fp32 registers
  kExact = 1,        // as it is, to fp32 registers; rows and columns are scaled at the end
  kFast = 2,         // stays in the tensor core's accumulator, likewise
};

template <int kBn, int kWaves, bool kHalves, bool kDeep, int kScales>
struct BlockShape {
  static constexpr int kBm = kHalves ? 64 : 128 * kWaves;
  static constexpr int kXBytes = kBm * 128, kWBytes = kBn * 128, kSBytes = kScales == kBlockScales ? kBm * 4 : 0;
  static constexpr int kStageBytes = kXBytes + kWBytes + kSBytes;
  static constexpr int kFit = (kSmemBytes - kBarrierBytes) / kStageBytes;
  static constexpr int kStages = kFit < kMaxStages ? kFit : kMaxStages;
  static constexpr int kBytes = kStages * kStageBytes + kBarrierBytes;
  static constexpr int kTmp = kDeep ? 2 : 1;
  static_assert(kBn % 16 == 0 && kBn <= 256);
  static_assert(!kHalves || kWaves == 1);
  static_assert(!kDeep || kScales != kFast);
};

#ifdef QM_TRACE
// Probe only: when what happened in the first CTAs, [cta][group][event], in SM clocks.
constexpr int kTraceEvents = 2048, kTraceCtas = 4;
__device__ long long g_trace[kTraceCtas][3][kTraceEvents];
struct Trace {
  int next = 0;
  __device__ __forceinline__ void operator()(int tag) {
    if (blockIdx.x < kTraceCtas && threadIdx.x % 128 == 0 && next < kTraceEvents) {
      g_trace[blockIdx.x][threadIdx.x / 128][next++] = clock64() * 16 + tag;
    }
  }
};
#else
struct Trace {
  __device__ __forceinline__ void operator()(int) {}
};
#endif

// A position in the ring of stages.
struct Ring {
  int stage = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void next(int stages) {
    if (++stage == stages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

template <class Shape>
struct Smem {
  uint32_t base;
  int stages;
  __device__ uint32_t x(int s) const { return base + s * Shape::kXBytes; }
  __device__ uint32_t w(int s) const {
    return base + stages * Shape::kXBytes + s * Shape::kWBytes;
  }
  __device__ uint32_t scales(int s) const {
    return base + stages * (Shape::kXBytes + Shape::kWBytes) + s * Shape::kSBytes;
  }
  __device__ uint32_t full(int s) const {
    return base + stages * Shape::kStageBytes + 8 * s;
  }
  __device__ uint32_t empty(int s) const { return full(s) + 8 * kMaxStages; }
};

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

template <class Shape, int kBn>
__device__ __forceinline__ void produce(BlockCall const& call, CUtensorMap const* x_map,
                                        CUtensorMap const* w_map, Smem<Shape> smem, int rank,
                                        int lane) {
  KRange const range(call, rank);
  int const clusters = gridDim.x / call.cluster;
  Ring ring;
  Trace trace;
  // The first loads of w do not depend on the kernel before: they go out before the wait for it.
  int ahead = 0;

  auto load_w = [&](int s, Tile tile, int block) {
    if (call.sharing == kShareW) {
      int const part = rank * (kBn / 2);
      tma_load_multicast(smem.w(s) + part * 128, w_map, block * 128, tile.n * kBn + part,
                         smem.full(s), 3, kEvictNormal);
    } else {
      tma_load(smem.w(s), w_map, block * 128, tile.n * kBn, smem.full(s), kEvictNormal);
    }
  };
  auto scale_bytes = [&](Tile tile) {
    if (Shape::kSBytes == 0 || !call.sx_bulk) return 0;
    int const rows = call.sx_rows - tile.m * Shape::kBm;
    return 4 * (rows < 0 ? 0 : rows < Shape::kBm ? rows : Shape::kBm);
  };
  auto expect = [&](int s, Tile tile) {
    barrier_arrive_expect(smem.full(s), Shape::kXBytes + Shape::kWBytes + scale_bytes(tile));
  };
  auto load_x = [&](int s, Tile tile, int block) {
    int const row = tile.m * Shape::kBm;
    if (lane == 0) {
      if (call.sharing == kShareX) {
        int const part = rank * (Shape::kBm / 2);
        tma_load_multicast(smem.x(s) + part * 128, x_map, block * 128, row + part, smem.full(s), 3,
                           kEvictNormal);
      } else {
        tma_load(smem.x(s), x_map, block * 128, row, smem.full(s), kEvictNormal);
      }
      int const bytes = scale_bytes(tile);
      if (bytes > 0) {
        bulk_load(smem.scales(s), call.sx + row + block * call.sx_block, bytes, smem.full(s));
      }
    }
    if (Shape::kSBytes != 0 && !call.sx_bulk) {
      for (int i = lane; i < Shape::kBm; i += 32) {
        bool const valid = row + i < call.out.m;
        float const* const from =
            call.sx + (valid ? (row + i) * call.sx_row + block * call.sx_block : 0);
        copy4_async(smem.scales(s) + 4 * i, from, valid);
      }
      copy_async_arrive(smem.full(s));
    }
  };

  for (int unit = blockIdx.x / call.cluster; unit < call.units; unit += clusters) {
    Tile const tile = tile_of(call.order, unit, call.sharing, rank);
    if (unit == static_cast<int>(blockIdx.x) / call.cluster) {
      int const blocks = range.last - range.first;
      ahead = blocks < call.stages ? blocks : call.stages;
      if (lane == 0) {
        for (int i = 0; i < ahead; ++i) {
          expect(i, tile);
          load_w(i, tile, range.first + i);
        }
      }
      dependency_wait();
      dependency_launch();
    }
    for (int block = range.first; block < range.last; ++block, ring.next(call.stages)) {
      if (ahead > 0) {
        --ahead;
      } else {
        trace(9);
        barrier_wait(smem.empty(ring.stage), ring.phase ^ 1);
        trace(10);
        if (lane == 0) {
          expect(ring.stage, tile);
          load_w(ring.stage, tile, block);
        }
      }
      load_x(ring.stage, tile, block);
      trace(11);
    }
  }
}

// The sums of one math group: rows of kWaves * 64, columns of one tile.
template <int kBn, int kWaves, int kScales>
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

  __device__ __forceinline__ static void start(float (&tmp)[kRegs], uint64_t x, uint64_t w,
                                               int group) {
    wgmma_hold(tmp);
    if (QM_ORDER) named_barrier(2 + group, kMathThreads);
    wgmma_fence();
    Wgmma<kBn>::add(tmp, x, w, kScales == kFast);
    Wgmma<kBn>::add(tmp, x + 2, w + 2, 1);
    Wgmma<kBn>::add(tmp, x + 4, w + 4, 1);
    if (QM_ORDER == 2) wgmma_commit();
    Wgmma<kBn>::add(tmp, x + 6, w + 6, 1);
    wgmma_commit();
    if (QM_ORDER == 2) wgmma_wait<1>();
    if (QM_ORDER == 3) wgmma_wait<0>();
    if (QM_ORDER) named_barrier_arrive(3 - group, kMathThreads);
  }

  __device__ __forceinline__ void promote(int wave, float (&tmp)[kRegs], Block const& b,
                                          int split) {
    wgmma_hold(tmp);
    if constexpr (kScales == kExact) {
#pragma unroll
      for (int i = 0; i < kRegs; ++i) sum[wave][i] += tmp[i];
      return;
    }
    float scale[2][2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      scale[h][0] = b.sx[wave][h] * b.sw[0];
      scale[h][1] = kOneScale ? 0.0f : b.sx[wave][h] * b.sw[1];
    }
#pragma unroll
    for (int j = 0; j < kBlocks; ++j) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float const s = kOneScale || j < split ? scale[h][0] : scale[h][1];
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          int const i = 4 * j + 2 * h + c;
          sum[wave][i] = fmaf(tmp[i], s, sum[wave][i]);
        }
      }
    }
  }
};

template <int kBn, int kWaves, bool kHalves, bool kDeep, int kScales>
__global__ void __launch_bounds__(kThreads, 1)
    block_gemm(__grid_constant__ BlockCall const call, __grid_constant__ CUtensorMap const x_map,
               __grid_constant__ CUtensorMap const w_map) {
  using Shape = BlockShape<kBn, kWaves, kHalves, kDeep, kScales>;
  using S = Sums<kBn, kWaves, kScales>;
  constexpr bool kBlock = kScales == kBlockScales;
  extern __shared__ __align__(1024) unsigned char memory[];
  Smem<Shape> const smem{smem_address(memory), call.stages};
  // By shuffle, so that the compiler knows them to be the same for all of a warp.
  int const warp = __shfl_sync(~0u, threadIdx.x / 32, 0), group = warp / 4;
  int const lane = threadIdx.x % 32;
  int const rank = call.cluster > 1 ? cluster_rank() : 0;
  bool const pair = call.sharing == kShareW || call.sharing == kShareX;

  if (threadIdx.x == 0) {
    int const readers = (kHalves ? 4 : 8) * (pair ? 2 : 1);
#pragma unroll 1
    for (int s = 0; s < call.stages; ++s) {
      barrier_init(smem.full(s), !kBlock || call.sx_bulk ? 1 : 33);
      barrier_init(smem.empty(s), readers);
    }
    barrier_init_visible();
    tensor_map_prefetch(&x_map);
    tensor_map_prefetch(&w_map);
  }
  __syncthreads();
  if (call.cluster > 1) {
    cluster_arrive();
    cluster_wait();
  }

  if (group == 2) {
    registers_down<40>();
    if (warp == 8) {
      produce<Shape, kBn>(call, &x_map, &w_map, smem, rank, lane);
      __syncwarp();
    } else {
      dependency_wait();
    }
    if (kHalves || call.sharing == kSplitK) {
      cluster_arrive();
      cluster_wait();
    }
  } else {
    registers_up<232>();
    dependency_wait();
    KRange const range(call, rank);
    int const n_blocks = range.last - range.first;
    int const clusters = gridDim.x / call.cluster;
    int const thread = threadIdx.x % 128;
    // The row of wave 0 that registers 4 * j and 4 * j + 1 hold; the others hold that plus 8.
    int const first_row = (kHalves ? 0 : group * 64 * kWaves) + 16 * (warp % 4) + lane / 4;
    Ring ring;
    S s;
    Trace trace;
    trace(0);
    if (QM_ORDER && group == 1) named_barrier_arrive(2, kMathThreads);

    for (int unit = blockIdx.x / call.cluster; unit < call.units; unit += clusters) {
      Tile const tile = tile_of(call.order, unit, call.sharing, rank);
      int const column = tile.n * kBn;
      int const split = (128 - column % 128) / 8;
      int const last_scale = call.sw_rows - 1;
      int const scale_row = min(column / 128, last_scale);
      float const* const sw0 = call.sw + scale_row * call.sw_row + range.first;
      float const* const sw1 = call.sw + min(scale_row + 1, last_scale) * call.sw_row + range.first;
      s.clear();

      // Waits for K block `i` and takes its scales to registers.
      auto take = [&](typename S::Block& b, int i) {
        b.stage = ring.stage;
        if constexpr (!kBlock) {
          barrier_wait(smem.full(ring.stage), ring.phase);
          return;
        }
        b.sw[0] = __ldg(sw0 + i);
        b.sw[1] = S::kOneScale ? 0.0f : __ldg(sw1 + i);
        barrier_wait(smem.full(ring.stage), ring.phase);
        uint32_t const at = smem.scales(ring.stage) + 4 * first_row;
#pragma unroll
        for (int w = 0; w < kWaves; ++w) {
          asm volatile("ld.shared.f32 %0, [%1];" : "=f"(b.sx[w][0]) : "r"(at + 256 * w));
          asm volatile("ld.shared.f32 %0, [%1];" : "=f"(b.sx[w][1]) : "r"(at + 256 * w + 32));
        }
      };
      auto start = [&](float (&tmp)[S::kRegs], typename S::Block const& b, int wave) {
        int const rows = kHalves ? 0 : (group * kWaves + wave) * 64;
        S::start(tmp, descriptor_128b(smem.x(b.stage) + rows * 128),
                 descriptor_128b(smem.w(b.stage)), group);
      };
      // All of this group's wgmma on the stage have ended.
      auto release = [&](typename S::Block const& b) {
        if (pair) {
          if (lane < 2) barrier_arrive_at(smem.empty(b.stage), lane);
        } else if (lane == 0) {
          barrier_arrive(smem.empty(b.stage));
        }
      };

      if constexpr (kScales == kFast) {
        // One K block always runs while the next is waited for.
        typename S::Block b, before;
        bool first = true;
        for (int i = 0; i < n_blocks; ++i, ring.next(call.stages)) {
          if (kHalves && i % 2 != group) continue;
          take(b, i);
#pragma unroll
          for (int wave = 0; wave < kWaves; ++wave) start(s.sum[wave], b, wave);
          wgmma_wait<kWaves>();
          if (!first) release(before);
          before = b;
          first = false;
        }
        wgmma_wait<0>();
        if (!first) release(before);
#pragma unroll
        for (int wave = 0; wave < kWaves; ++wave) wgmma_hold(s.sum[wave]);
      } else if constexpr (!kDeep) {
        for (int i = 0; i < n_blocks; ++i, ring.next(call.stages)) {
          if (kHalves && i % 2 != group) continue;
          typename S::Block b;
          trace(1);
          take(b, i);
          trace(2);
#pragma unroll
          for (int wave = 0; wave < kWaves; ++wave) {
            float tmp[S::kRegs];
            start(tmp, b, wave);
            trace(3);
            wgmma_wait<0>();
            trace(4);
            if (wave == kWaves - 1) release(b);
            s.promote(wave, tmp, b, split);
          }
        }
      } else if constexpr (kWaves == 1) {
        static_assert(!kHalves);
        float even[S::kRegs], odd[S::kRegs];
        typename S::Block b0, b1;
        take(b0, 0);
        ring.next(call.stages);
        start(even, b0, 0);
        int i = 1;
        for (; i + 1 < n_blocks; i += 2) {
          take(b1, i);
          ring.next(call.stages);
          start(odd, b1, 0);
          wgmma_wait<1>();
          release(b0);
          s.promote(0, even, b0, split);
          take(b0, i + 1);
          ring.next(call.stages);
          start(even, b0, 0);
          wgmma_wait<1>();
          release(b1);
          s.promote(0, odd, b1, split);
        }
        if (i < n_blocks) {
          take(b1, i);
          ring.next(call.stages);
          start(odd, b1, 0);
          wgmma_wait<1>();
          release(b0);
          s.promote(0, even, b0, split);
          wgmma_wait<0>();
          release(b1);
          s.promote(0, odd, b1, split);
        } else {
          wgmma_wait<0>();
          release(b0);
          s.promote(0, even, b0, split);
        }
      }

      trace(5);
      int const row = tile.m * Shape::kBm + first_row;
      constexpr int kGroups = (S::kBlocks + 3) / 4;  // of up to 32 columns
      bool const split_k = call.sharing == kSplitK;
      int const parts = (split_k ? call.cluster : 1) * (kHalves ? 2 : 1);
      int const part = (split_k ? rank : 0) * (kHalves ? 2 : 1) + (kHalves ? group : 0);
      uint32_t const own = smem.base + (group * kWaves * S::kBlocks * 128 + thread) * 16;
      if (kHalves || split_k) {
        // The ring is empty and nothing is on its way to it: parts are exchanged in its memory.
        named_barrier(1, kMathThreads);
#pragma unroll
        for (int w = 0; w < kWaves; ++w)
#pragma unroll
          for (int j = 0; j < S::kBlocks; ++j) {
            asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(
                             own + (w * S::kBlocks + j) * 2048),
                         "f"(s.sum[w][4 * j]), "f"(s.sum[w][4 * j + 1]), "f"(s.sum[w][4 * j + 2]),
                         "f"(s.sum[w][4 * j + 3])
                         : "memory");
          }
        trace(6);
        cluster_arrive();
        cluster_wait();
        trace(7);
      }
#pragma unroll
      for (int w = 0; w < kWaves; ++w)
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
          constexpr int kRest = S::kBlocks % 4;
          bool const last = kRest != 0 && g == kGroups - 1;
          if ((w * kGroups + g) % parts != part) continue;
          float v[16];
#pragma unroll
          for (int i = 0; i < 16; ++i) {
            int const from = 16 * g + i;
            v[i] = from < S::kRegs ? s.sum[w][from < S::kRegs ? from : 0] : 0.0f;
          }
          if (kHalves || split_k) {
#pragma unroll
            for (int i = 0; i < 16; ++i) v[i] = 0.0f;
            // Four parts are on their way at a time; what is added, and in which order, is fixed.
            for (int first = 0; first < parts; first += 4) {
              float4 f[4][4];
#pragma unroll
              for (int q = 0; q < 4; ++q) {
                int const p = first + q;
                int const at_rank = split_k ? (kHalves ? p / 2 : p) : rank;
                int const at_group = kHalves ? p % 2 : group;
                uint32_t const from = cluster_address(
                    smem.base + (at_group * kWaves * S::kBlocks * 128 + thread) * 16,
                    p < parts ? at_rank : rank);
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                  f[q][j] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                  if (4 * g + j >= S::kBlocks || p >= parts) continue;
                  f[q][j] = cluster_load4(from + (w * S::kBlocks + 4 * g + j) * 2048);
                }
              }
#pragma unroll
              for (int q = 0; q < 4; ++q)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                  v[4 * j] += f[q][j].x;
                  v[4 * j + 1] += f[q][j].y;
                  v[4 * j + 2] += f[q][j].z;
                  v[4 * j + 3] += f[q][j].w;
                }
            }
          }
          if (last) {
            constexpr int kLeft = kRest == 0 ? 4 : kRest;
            float u[4 * kLeft];
#pragma unroll
            for (int i = 0; i < 4 * kLeft; ++i) u[i] = v[i];
            store_blocks<kLeft, !kBlock>(call.out, u, row + 64 * w, column + 32 * g, lane);
          } else {
            store_blocks<4, !kBlock>(call.out, v, row + 64 * w, column + 32 * g, lane);
          }
        }
      trace(8);
    }
  }
  // A CTA whose shared memory or barriers a neighbour still uses must not end.
  if (call.cluster > 1) {
    __syncwarp();
    cluster_arrive();
    cluster_wait();
  }
}

}  // namespace qm
