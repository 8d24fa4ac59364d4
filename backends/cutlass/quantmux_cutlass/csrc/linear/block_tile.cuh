// y = x * w^T for FP8 with a scale for 1 x 128 of x and for 128 x 128 of w, on Hopper.
//
// A tile of y is 128 * kWaves rows (64 with kHalves) by kBn columns. K goes in blocks of 128, which
// is also the width of a scale and of the 128-byte swizzle:
//
//   3 loading warps  TMA brings x [rows, 128] and w [kBn, 128] of one K block, and the rows' scales
//                    of that block, into a ring of stages; they run ahead over tiles too, so that
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
#include "block_load.cuh"
#include "block_sums.cuh"

#include <type_traits>

namespace qm {

template <int kBn, int kWaves, bool kHalves, bool kDeep>
__global__ void __launch_bounds__(kThreads, 1)
    block_gemm(__grid_constant__ BlockCall const call, __grid_constant__ CUtensorMap const x_map,
               __grid_constant__ CUtensorMap const w_map) {
  using Shape = BlockShape<kBn, kWaves, kHalves>;
  using S = Sums<kBn, kWaves>;
  // Measured: 115 instead of 120 us at 4096 x 4096 x 4096; other tiles lose by it (H200, 2026-11-21).
  constexpr bool kInTurn = kDeep && kBn == 128;
  extern __shared__ __align__(1024) unsigned char memory[];
  Smem<Shape> const smem{smem_address(memory)};
  // By shuffle, so that the compiler knows them to be the same for all of a warp.
  int const warp = __shfl_sync(~0u, threadIdx.x / 32, 0), group = warp / 4;
  int const lane = threadIdx.x % 32;
  int const rank = call.cluster > 1 ? cluster_rank() : 0;
  bool const pair = call.sharing == kShareW || call.sharing == kShareX;

  if (threadIdx.x == 0) {
    int const readers = (kHalves ? 4 : 8) * (pair ? 2 : 1);
#pragma unroll 1
    for (int s = 0; s < Shape::kStages; ++s) {
      barrier_init(smem.full(s), arrivals_to_fill(call));
      barrier_init(smem.empty(s), readers);
    }
    barrier_init_visible();
    tensor_map_prefetch(&x_map);
    tensor_map_prefetch(&w_map);
  }
  __syncthreads();
  if (pair) {
    // The barriers are ready before a neighbour's transfers arrive at them.
    cluster_arrive_relaxed();
    cluster_wait();
  }

  if (group == 2) {
    registers_down<40>();
    if (warp == 8) {
      load_w(call, &w_map, smem, rank);
    } else if (warp == 9) {
      load_x(call, &x_map, smem, rank);
    } else if (warp == 10) {
      load_scales(call, smem, rank, lane);
    } else {
      dependency_wait();
    }
    __syncwarp();
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
    Ring<Shape> ring;
    S s;
    if (kInTurn && group == 1) named_barrier_arrive(2, kMathThreads);

    Tile tile = tile_of(call.order, blockIdx.x / call.cluster, call.sharing, rank), following;
    for (int unit = blockIdx.x / call.cluster; unit < call.units; unit += clusters) {
      // Divisions: they are made while the first products of the tile before are.
      auto look_ahead = [&] {
        following = tile_of(call.order, min(unit + clusters, call.units - 1), call.sharing, rank);
      };
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
        S::template start<kInTurn>(tmp, descriptor_128b(smem.x(b.stage) + rows * 128),
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

      if constexpr (!kDeep) {
        // A K block's scales are taken while the block before is multiplied.
        constexpr int kStep = kHalves ? 2 : 1;
        auto take_next = [&](typename S::Block& b, int i) {
          if (i >= n_blocks) return;
          take(b, i);
          ring.next();
          if (kHalves) ring.next();
        };
        typename S::Block b, next;
        if (kHalves && group == 1) ring.next();
        int i = kHalves ? group : 0;
        take_next(b, i);
        for (; i < n_blocks; i += kStep) {
#pragma unroll
          for (int wave = 0; wave < kWaves; ++wave) {
            float tmp[S::kRegs];
            start(tmp, b, wave);
            if (wave == 0) take_next(next, i + kStep);
            if (wave == 0 && i < kStep) look_ahead();
            wgmma_wait<0>();
            if (wave == kWaves - 1) release(b);
            s.promote(wave, tmp, b, split);
          }
          b = next;
        }
      } else if constexpr (kWaves == 1) {
        static_assert(!kHalves);
        float even[S::kRegs], odd[S::kRegs];
        typename S::Block b0, b1;
        take(b0, 0);
        ring.next();
        start(even, b0, 0);
        look_ahead();
        int i = 1;
        for (; i + 1 < n_blocks; i += 2) {
          take(b1, i);
          ring.next();
          start(odd, b1, 0);
          wgmma_wait<1>();
          release(b0);
          s.promote(0, even, b0, split);
          take(b0, i + 1);
          ring.next();
          start(even, b0, 0);
          wgmma_wait<1>();
          release(b1);
          s.promote(0, odd, b1, split);
        }
        if (i < n_blocks) {
          take(b1, i);
          ring.next();
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
            // By addition: as copies, the compiler would keep the sums in fours from the start, in
            // the register bank of the products they are added to.
            float const v[4] = {s.sum[w][4 * j] + 0.0f, s.sum[w][4 * j + 1] + 0.0f,
                                s.sum[w][4 * j + 2] + 0.0f, s.sum[w][4 * j + 3] + 0.0f};
            asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(
                             own + (w * S::kBlocks + j) * 2048),
                         "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3])
                         : "memory");
          }
        cluster_arrive();
        cluster_wait();
      }
      // Sums what all parts hold of 32 columns. Four parts are on their way at a time; what is
      // added, and in which order, is fixed.
      auto fetch_parts = [&](float (&v)[16], int w, int g) {
#pragma unroll
        for (int i = 0; i < 16; ++i) v[i] = 0.0f;
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
      };
      constexpr int kRest = S::kBlocks % 4 == 0 ? 4 : S::kBlocks % 4;
      // Columns [32 g, 32 g + 32) of a wave, fewer in the last group; from registers or from parts.
      auto store = [&](auto is_whole, float (&v)[16], int w, int g) {
        if (g == kGroups - 1 && kRest < 4) {
          float rest[4 * kRest];
#pragma unroll
          for (int i = 0; i < 4 * kRest; ++i) rest[i] = v[i];
          store_blocks<kRest, decltype(is_whole)::value>(call.out, rest, row + 64 * w,
                                                         column + 32 * g, lane);
        } else {
          store_blocks<4, decltype(is_whole)::value>(call.out, v, row + 64 * w, column + 32 * g,
                                                     lane);
        }
      };
      auto store_sums = [&](auto is_whole) {
#pragma unroll
        for (int w = 0; w < kWaves; ++w)
#pragma unroll
          for (int g = 0; g < kGroups; ++g) {
            float v[16];
#pragma unroll
            for (int i = 0; i < 16; ++i) {
              int const from = 16 * g + i;
              v[i] = from < S::kRegs ? s.sum[w][from < S::kRegs ? from : 0] : 0.0f;
            }
            store(is_whole, v, w, g);
          }
      };
      if (kHalves || split_k) {
#pragma unroll
        for (int w = 0; w < kWaves; ++w)
#pragma unroll
          for (int g = 0; g < kGroups; ++g) {
            if ((w * kGroups + g) % parts != part) continue;
            float v[16];
            fetch_parts(v, w, g);
            if (call.out.bias != nullptr) add_bias<4>(call.out, v, column + 32 * g, lane);
            store(std::false_type{}, v, w, g);
          }
      } else {
        if (call.out.bias != nullptr) {
#pragma unroll
          for (int w = 0; w < kWaves; ++w) {
            add_bias<S::kBlocks>(call.out, s.sum[w], column, lane);
          }
        }
        if (call.out.vector && column + kBn <= call.out.n) store_sums(std::true_type{});
        else store_sums(std::false_type{});
      }
      tile = following;
    }
  }
  // A CTA whose shared memory a neighbour still reads must not end.
  if (call.sharing == kSplitK) {
    __syncwarp();
    cluster_arrive_relaxed();
    cluster_wait();
  }
}

}  // namespace qm
