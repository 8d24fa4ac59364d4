// FP8 linear for few tokens: a stream of weights through every multiprocessor.
//
// y[M, N] = x[M, K] W[N, K]^T with M <= 64 costs what reading W costs, if nothing gets between
// the memory and the reader. So:
//
//   operands swapped   The matrix unit takes 64 rows of W as its tall operand and BM tokens as its
//                      narrow one (m64nBMk32): a tile of 8 tokens wastes nothing on M = 1.
//   one warp copies    A producer warp asks the TMA unit for blocks of [NT rows, 128 bytes] into a
//                      ring of stages; consumers wait on one barrier per stage. With everything a
//                      block needs asked for at once there is no latency but the first.
//   weights first      Weights belong to the layer, so they are asked for before the wait for the
//                      kernel before (programmatic launch): the stream starts while that kernel
//                      still runs. x, its scales and y are touched after the wait only.
//   K split in a       `splits` blocks of a cluster share a tile of y, each with its share of K.
//   cluster            Afterwards every group of accumulator registers has one owner; the others
//                      send theirs straight from registers into its shared memory (st.async), and
//                      its barrier counts the bytes. No workspace, no counter, no second launch.
//                      The owner adds in the order of ranks: the same bits every time.
//   neighbours share x With 64 tokens x is as many bytes as W, once for every 64 rows of W, and the
//                      L2 cache's rate is the limit. `share` blocks of the cluster with the same
//                      part of K each ask for a part of x and have it sent to all of them.
//   teams              Consumers come in teams that take blocks of K in turn, so that products,
//                      promotions and waits of one hide in those of the other. Their sums meet in
//                      the ring's memory when it is free.
//   upright tiles      With 64 tokens the operands need not be swapped: x is the tall one and a tile
//                      may have any 16 rows of W more, so that N = 18432 is 128 tiles of 144 rows
//                      that all run at once instead of 288 of 64 on 132 multiprocessors.
//   stores transposed  Swapped, a thread holds two tokens of one row of W; y wants neighbours in N.
//                      movmatrix turns 8 x 8 blocks in registers, so that four bytes of y go out
//                      at a time and a warp fills whole 32-byte sectors.
//
// Three ways to add up: `fast` leaves the sum in the tensor core's short accumulator; `exact` adds
// every 128 of K to fp32 registers; `block` does the same with the scales of x and W on the way.
// The last two alternate, in a lone warp group, between two sets of accumulators, so that the next
// product runs while this one is promoted.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "stream_ptx.cuh"
#include "stream_shape.cuh"
#include "stream_wgmma.cuh"

namespace stream {

// Two neighbours in N of one token, as they are stored.
__device__ __forceinline__ uint32_t rounded(float low, float high, int out) {
  if (out == 0) {
    __nv_bfloat162 const pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t const*>(&pair);
  }
  __half2 const pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<uint32_t const*>(&pair);
}

template <int Mode, int BM, int NT, int Teams>
__global__ void __launch_bounds__(Shape<Mode, BM, NT, Teams>::threads,
                                  Shape<Mode, BM, NT, Teams>::blocks)
    linear(__grid_constant__ CUtensorMap const w_map, __grid_constant__ CUtensorMap const x_map,
           __grid_constant__ Arguments const arg) {
  using S = Shape<Mode, BM, NT, Teams>;
  constexpr int R = S::registers, V = S::vector, G = S::groups;
  extern __shared__ __align__(1024) uint8_t memory[];

  S const at(arg.splits, arg.stages);
  uint32_t const base = shared_address(memory);
  uint32_t const full = base + at.barriers, empty = full + 8 * arg.stages;
  uint32_t const inbox_full = empty + 8 * arg.stages;

  int const splits = arg.splits, share = arg.share, stages = arg.stages;
  int const size = splits * share;  // blocks of the cluster: `share` neighbours for each split
  int const cluster = blockIdx.x / size, place = blockIdx.x - cluster * size;
  int const rank = place / share, neighbour = place - rank * share;
  int const n0 = (cluster * share + neighbour) * NT, m0 = blockIdx.y * BM;
  int const first = rank * arg.k_blocks / splits;
  int const count = (rank + 1) * arg.k_blocks / splits - first;
  int const warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  int const owned = rank < S::mine ? (S::mine - 1 - rank) / splits + 1 : 0;  // by each team

  if (threadIdx.x == 0) {
    for (int s = 0; s < stages; ++s) {
      barrier_init(full + 8 * s, Mode == BLOCK ? 33 : 1);
      barrier_init(empty + 8 * s, share * (S::team / 32));
    }
    barrier_init(inbox_full, 1);
    barrier_init_done();
    if (splits > 1) {
      barrier_arrive_expect(inbox_full, Teams * owned * (splits - 1) * S::piece);
    }
  }
  if (warp == S::consumers / 32 && lane == 0) {
    prefetch_descriptor(&w_map);
    prefetch_descriptor(&x_map);
  }
  __syncthreads();
  if (size > 1) cluster_arrive();  // this block's barriers may be counted on

  if (warp == S::consumers / 32) {
    // ---- producer ------------------------------------------------------------------------------
    int const ahead = count < stages ? count : stages;
    constexpr uint32_t bytes = (NT + BM) * BK;
    uint64_t const stream_once = evict_first(), keep = evict_last();
    int const box = BM / share;  // rows of x that this block asks for, for all neighbours
    auto const neighbours = static_cast<uint16_t>(((1u << share) - 1) << (rank * share));
    auto const ask_w = [&](int i, int s) {
      barrier_arrive_expect(full + 8 * s, bytes);
      copy_box(base + at.w + s * (NT * BK), &w_map, (first + i) * BK, n0, full + 8 * s,
               stream_once);
    };
    auto const ask_x = [&](int i, int s) {
      uint32_t const to = base + at.x + s * (BM * BK) + neighbour * box * BK;
      int const column = (first + i) * BK, row = m0 + neighbour * box;
      if (share == 1) {
        copy_box(to, &x_map, column, row, full + 8 * s, keep);
      } else {
        copy_box_to(neighbours, to, &x_map, column, row, full + 8 * s, keep);
      }
    };
    auto const ask_scales = [&](int i, int s) {
      if constexpr (Mode == BLOCK) {
        int const kb = first + i;
        uint32_t const to = base + at.scales + s * (S::scale_words * 4);
#pragma unroll
        for (int j = lane; j < BM; j += 32) {
          bool const exists = m0 + j < arg.m;
          float const* from = arg.x_scales + (exists ? m0 + j : 0) * arg.x_scales_row +
                              kb * arg.x_scales_column;
          copy_word(to + 4 * j, from, exists);
        }
        if (lane < (S::upright ? 3 : 1)) {  // a tile of 64 or 128 rows lies in one block of W's
          int const row = min(n0 / 128 + lane, (arg.n - 1) / 128);
          copy_word(to + 4 * (BM + lane), arg.w_scales + row * arg.w_scales_row + kb, true);
        }
        copies_arrive(full + 8 * s);
      }
    };
    if (lane == 0) {
      for (int i = 0; i < ahead; ++i) ask_w(i, i);
    }
    __syncwarp();
    if (share > 1) cluster_wait();  // the neighbours' barriers count what is sent to them
    wait_for_kernel_before();
    if (lane == 0) {
      for (int i = 0; i < ahead; ++i) ask_x(i, i);
    }
    __syncwarp();
    for (int i = 0; i < ahead; ++i) ask_scales(i, i);
    release_kernel_after();
    int s = 0;
    uint32_t parity = 0;
    for (int i = ahead; i < count; ++i) {
      barrier_wait(empty + 8 * s, parity);
      if (lane == 0) {
        ask_w(i, s);
        ask_x(i, s);
      }
      __syncwarp();
      ask_scales(i, s);
      if (++s == stages) {
        s = 0;
        parity ^= 1;
      }
    }
    if (size > 1 && share == 1) cluster_wait();
    return;
  }

  // ---- consumers -------------------------------------------------------------------------------
  int const team = Teams == 1 ? 0 : threadIdx.x / S::team;
  int const thread = threadIdx.x - team * S::team;  // of the team
  int const strip = thread / 128;                   // S::strip rows of W
  int const tall = 16 * (warp & 3) + lane / 4;      // row of the tall operand, and 8 more
  float w_scale[2] = {}, bias[2] = {};
  float* const row_scales = reinterpret_cast<float*>(memory + at.row_scales);
  auto const of_row = [&](int n, float& scale, float& added) {
    bool const exists = n < arg.n;
    if constexpr (Mode != BLOCK) {
      scale = exists ? __ldg(arg.w_scales + (arg.w_by_row ? n : 0)) : 0.0f;
    }
    added = arg.bias != nullptr && exists ? __ldg(arg.bias + n) : 0.0f;
  };
  if constexpr (S::upright) {
    for (int j = threadIdx.x; j < NT; j += S::consumers) {
      of_row(n0 + j, row_scales[j], row_scales[NT + j]);
    }
  } else {
#pragma unroll
    for (int h = 0; h < 2; ++h) of_row(n0 + 64 * strip + tall + 8 * h, w_scale[h], bias[h]);
  }
  wait_for_kernel_before();
  float* const token_scales = reinterpret_cast<float*>(memory + at.token_scales);
  if constexpr (Mode != BLOCK) {
    // Written by this thread's plain store, read after the named barrier below.
    for (int j = threadIdx.x; j < BM; j += S::consumers) {
      int const m = m0 + j;
      token_scales[j] = m < arg.m ? arg.x_scales[arg.x_by_row ? m : 0] : 0.0f;
    }
  }
  if (size > 1) cluster_wait();

  float sum[R];
#pragma unroll
  for (int i = 0; i < R; ++i) sum[i] = 0.0f;

  // Block i of K is team i % Teams's.
  int slot = team;      // of the stage that is waited for next
  uint32_t parity = 0;  // of its phase
  auto const multiply = [&](float(&d)[R], bool add) {
    barrier_wait(full + 8 * slot, parity);
    uint64_t const of_w = descriptor(base + at.w + slot * (NT * BK) + strip * (S::strip * BK));
    uint64_t const of_x = descriptor(base + at.x + slot * (BM * BK));
    uint64_t const a = S::upright ? of_x : of_w, b = S::upright ? of_w : of_x;
    pin(d);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < BK / 32; ++k) {
      qm::Wgmma<S::narrow>::add(d, a + 2 * k, b + 2 * k, add || k > 0);
    }
    wgmma_commit();
    slot += Teams;
    if (slot >= stages) {
      slot -= stages;
      parity ^= 1;
    }
  };
  int used = team, used_block = team;  // the stage that is given back next, and what it held
  auto const release = [&] {
    __syncwarp();
    // Where nothing is asked for any more nobody waits, and the block may be gone.
    if (used_block + stages < count && lane < share) {
      uint32_t const barrier = empty + 8 * used;
      if (share == 1) {
        barrier_arrive(barrier);
      } else {
        barrier_arrive_in(address_in(barrier, rank * share + lane));
      }
    }
    used_block += Teams;
    used += Teams;
    if (used >= stages) used -= stages;
  };

  int const products = (count - team + Teams - 1) / Teams;
  if constexpr (Mode == FAST) {
    for (int i = 0; i < products; ++i) {
      multiply(sum, i > 0);
      if (i > 0) {
        wgmma_wait<1>();
        release();
      }
    }
    wgmma_wait<0>();
    pin(sum);
  } else {
    auto const promote = [&](float(&d)[R]) {
      pin(d);
      float const* const scales =
          reinterpret_cast<float const*>(memory + at.scales) + used * S::scale_words;
      if constexpr (Mode == BLOCK && S::upright) {
        float const of_x[2] = {scales[tall], scales[tall + 8]};
        float const of_w[3] = {scales[BM], scales[BM + 1], scales[BM + 2]};
        int const from = (n0 & 127) + strip * S::strip;
#pragma unroll
        for (int j = 0; j < R / 4; ++j) {
          int const n = from + 8 * j;  // eight rows of W lie in one block
          float const w = n < 128 ? of_w[0] : n < 256 ? of_w[1] : of_w[2];
          float const s0 = of_x[0] * w, s1 = of_x[1] * w;
          sum[4 * j] = fmaf(d[4 * j], s0, sum[4 * j]);
          sum[4 * j + 1] = fmaf(d[4 * j + 1], s0, sum[4 * j + 1]);
          sum[4 * j + 2] = fmaf(d[4 * j + 2], s1, sum[4 * j + 2]);
          sum[4 * j + 3] = fmaf(d[4 * j + 3], s1, sum[4 * j + 3]);
        }
      } else if constexpr (Mode == BLOCK) {
        float const of_w = scales[BM];
#pragma unroll
        for (int j = 0; j < BM / 8; ++j) {
          float2 const of_x = *reinterpret_cast<float2 const*>(scales + 8 * j + 2 * (lane & 3));
          float const s0 = of_x.x * of_w, s1 = of_x.y * of_w;
          sum[4 * j] = fmaf(d[4 * j], s0, sum[4 * j]);
          sum[4 * j + 1] = fmaf(d[4 * j + 1], s1, sum[4 * j + 1]);
          sum[4 * j + 2] = fmaf(d[4 * j + 2], s0, sum[4 * j + 2]);
          sum[4 * j + 3] = fmaf(d[4 * j + 3], s1, sum[4 * j + 3]);
        }
      } else {
#pragma unroll
        for (int i = 0; i < R; ++i) sum[i] += d[i];
      }
      release();
    };
    float even[R];
#pragma unroll
    for (int i = 0; i < R; ++i) even[i] = 0.0f;
    if constexpr (S::two_sets) {
      float odd[R];
#pragma unroll
      for (int i = 0; i < R; ++i) odd[i] = 0.0f;
      // No product is under way where a loop turns: ptxas would otherwise wait after each one.
      auto const pair = [&](bool more) {  // `even` is under way before, and after if `more`
        multiply(odd, false);
        wgmma_wait<1>();
        promote(even);
        if (more) {
          multiply(even, false);
          wgmma_wait<1>();
        } else {
          wgmma_wait<0>();
        }
        promote(odd);
      };
      int i = 0;
      for (; i + 3 < products; i += 4) {
        multiply(even, false);
        pair(true);
        pair(false);
      }
      if (i + 1 < products) {
        multiply(even, false);
        pair(false);
        i += 2;
      }
      if (i < products) {
        multiply(even, false);
        wgmma_wait<0>();
        promote(even);
      }
    } else {
      // One set leaves room for other warp groups, which fill the gap.
      for (int i = 0; i < products; ++i) {
        multiply(even, false);
        wgmma_wait<0>();
        promote(even);
      }
    }
  }

  // ---- the sums of the teams meet, in the ring: its last bytes have come and been read ------------
  if (Teams > 1 || Mode != BLOCK || S::upright) named_barrier(1, S::consumers);
  if constexpr (Teams > 1) {
    auto const desk = [&](int owner, int sender, int g) {  // [owner][sender][group of the owner]
      int const index = (owner * Teams + sender) * S::mine + g / Teams;
      return reinterpret_cast<float*>(memory + index * S::piece + thread * (V * 4));
    };
#pragma unroll
    for (int g = 0; g < G; ++g) {
      if (g % Teams == team) continue;
      float* const to = desk(g % Teams, team, g);
#pragma unroll
      for (int i = 0; i < V; ++i) to[i] = sum[V * g + i];
    }
    named_barrier(1, S::consumers);
#pragma unroll
    for (int g = 0; g < G; ++g) {
      if (g % Teams != team) continue;
      float total[V];
#pragma unroll
      for (int t = 0; t < Teams; ++t) {
        float const* const from = desk(team, t, g);
#pragma unroll
        for (int i = 0; i < V; ++i) {
          float const one = t == team ? sum[V * g + i] : from[i];
          total[i] = t == 0 ? one : total[i] + one;
        }
      }
#pragma unroll
      for (int i = 0; i < V; ++i) sum[V * g + i] = total[i];
    }
  }

  // ---- then those of the splits, over the cluster ------------------------------------------------
  int const boxes = at.inbox + thread * (V * 4);  // this thread's place in every piece
  int const rows_of_boxes = (S::mine + splits - 1) / splits;
  auto const inbox = [&](int g, int sender) {
    int const slot_of = team * rows_of_boxes + (g / Teams) / splits;
    return boxes + (slot_of * (splits - 1) + sender) * S::piece;
  };
  if (splits > 1) {
#pragma unroll
    for (int g = 0; g < G; ++g) {
      if (Teams > 1 && g % Teams != team) continue;
      int const owner = (g / Teams) % splits;
      if (owner != rank) {
        uint32_t const to = base + inbox(g, rank < owner ? rank : rank - 1);
        float v[V];
#pragma unroll
        for (int i = 0; i < V; ++i) v[i] = sum[V * g + i];
        int const block = owner * share + neighbour;
        send(address_in(to, block), address_in(inbox_full, block), v);
      }
    }
    if (owned == 0) return;
    barrier_wait_cluster(inbox_full, 0);
  }

  bool const pairs =
      (reinterpret_cast<uintptr_t>(arg.y) & 3) == 0 && (arg.y_row & 1) == 0;
#pragma unroll
  for (int g = 0; g < G; ++g) {
    if ((Teams > 1 && g % Teams != team) || (g / Teams) % splits != rank) continue;
    float v[V];
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = sum[V * g + i];
    if (splits > 1) {
      // In the order of ranks, this block's own sum in its place.
      float total[V];
      for (int r = 0; r < splits; ++r) {
        float const* const sent =
            reinterpret_cast<float const*>(memory + inbox(g, r < rank ? r : r - 1));
#pragma unroll
        for (int i = 0; i < V; ++i) {
          float const one = r == rank ? v[i] : sent[i];
          total[i] = r == 0 ? one : total[i] + one;
        }
      }
#pragma unroll
      for (int i = 0; i < V; ++i) v[i] = total[i];
    }
#pragma unroll
    for (int p = 0; p < V / 2; ++p) {
      int const index = (V * g + 2 * p) / 2;  // pair: 2 j + h
      int const j = index / 2, h = index & 1;
      float low = v[2 * p], high = v[2 * p + 1];
      uint32_t out;  // of token m, rows n and n + 1 of W
      int m, n;
      if constexpr (S::upright) {
        int const at_row = strip * S::strip + 8 * j + 2 * (lane & 3);
        float2 const added = *reinterpret_cast<float2 const*>(row_scales + NT + at_row);
        if constexpr (Mode != BLOCK) {
          float2 const s = *reinterpret_cast<float2 const*>(row_scales + at_row);
          float const of_x = token_scales[tall + 8 * h];
          low = low * of_x * s.x;
          high = high * of_x * s.y;
        }
        out = rounded(low + added.x, high + added.y, arg.out);
        m = m0 + tall + 8 * h;
        n = n0 + at_row;
      } else {
        if constexpr (Mode != BLOCK) {
          float2 const s =
              *reinterpret_cast<float2 const*>(token_scales + 8 * j + 2 * (lane & 3));
          low = low * s.x * w_scale[h];
          high = high * s.y * w_scale[h];
        }
        out = transpose(rounded(low + bias[h], high + bias[h], arg.out));
        m = m0 + 8 * j + lane / 4;
        n = n0 + 64 * strip + 16 * (warp & 3) + 8 * h + 2 * (lane & 3);
      }
      if (m < arg.m) {
        uint16_t* const to = arg.y + m * arg.y_row + n;
        if (pairs && n + 1 < arg.n) {
          *reinterpret_cast<uint32_t*>(to) = out;
        } else {
          if (n < arg.n) to[0] = static_cast<uint16_t>(out);
          if (n + 1 < arg.n) to[1] = static_cast<uint16_t>(out >> 16);
        }
      }
    }
  }
}

}  // namespace stream
