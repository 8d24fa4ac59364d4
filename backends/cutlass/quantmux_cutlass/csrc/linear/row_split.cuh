// The tiles of row_tile.cuh with K divided over a cluster, for few tokens: where a tile a
// multiprocessor would leave most of them idle, and small tiles would make every one of them read
// as much of x as of w.
//
// Each of the cluster's 2 to 8 CTAs multiplies its share of K blocks of one tile of 128 rows. Then
// the sums are exchanged: a tile is cut into chunks of 16 rows by 32 columns, what one warp holds
// in 16 registers a thread, and chunk c belongs to CTA c % cluster. Everybody pushes its part of
// a chunk into the owner's shared memory. Pushing pipelines where pulling would wait for every
// round trip, and it goes to memory of its own, not to the ring, so it can begin while others
// still multiply. After one barrier the owner adds the parts in the order of the ranks, scales,
// rounds and stores. One launch, no workspace, and the same input gives the same bits.
#pragma once
#include "row_checks.cuh"
#include "row_tile.cuh"

namespace qm {

template <int kBn>
struct SplitShape {
  static constexpr int kBm = 128;
  static constexpr int kXBytes = kBm * 128, kWBytes = kBn * 128;
  static constexpr int kStageBytes = kXBytes + kWBytes;
  static constexpr int kGroups = (kBn + 31) / 32;  // of 32 columns
  static constexpr int kChunks = 8 * kGroups;      // 8 warps hold 16 rows each
  static constexpr int kChunkBytes = 16 * 32 * 4;
  // cluster · ceil(kChunks / cluster) parts arrive at each CTA.
  static constexpr int kPartsBytes = (kChunks + kMostSplits - 1) * kChunkBytes;
  static constexpr int kScaleBytes = 2 * kBn * 4;
  static constexpr int kBarrierBytes = 2 * kRowMaxStages * 8;
  static constexpr int kFit =
      (kRowSmem - kPartsBytes - kScaleBytes - kBarrierBytes) / kStageBytes;
  static constexpr int kStages = kFit < kRowMaxStages ? kFit : kRowMaxStages;
  static constexpr int kBytes = kStages * kStageBytes + kPartsBytes + kScaleBytes + kBarrierBytes;
  static constexpr int kRegs = kBn / 2;
  static constexpr int kMostSlots = (kChunks / 2 + 7) / 8;  // chunks that one warp finishes
  static_assert(kBn % 16 == 0 && kStages >= 3);

  static __device__ uint32_t x(uint32_t base, int s) { return base + s * kXBytes; }
  static __device__ uint32_t w(uint32_t base, int s) {
    return base + kStages * kXBytes + s * kWBytes;
  }
  static __device__ uint32_t parts(uint32_t base) { return base + kStages * kStageBytes; }
  static __device__ uint32_t scales(uint32_t base) { return parts(base) + kPartsBytes; }
  static __device__ uint32_t full(uint32_t base, int s) {
    return scales(base) + kScaleBytes + 8 * s;
  }
  static __device__ uint32_t empty(uint32_t base, int s) {
    return full(base, s) + 8 * kRowMaxStages;
  }
};

// One chunk, a thread's 16 values, to and from shared memory: 16 bytes of each lane side by side.
__device__ __forceinline__ void push_chunk(uint32_t to, float const* v, int lane) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to + 512 * i + 16 * lane),
                 "f"(v[4 * i]), "f"(v[4 * i + 1]), "f"(v[4 * i + 2]), "f"(v[4 * i + 3])
                 : "memory");
  }
}

__device__ __forceinline__ void add_chunk(float (&v)[1][16], uint32_t from, int lane) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float4 p;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(p.x), "=f"(p.y), "=f"(p.z), "=f"(p.w)
                 : "r"(from + 512 * i + 16 * lane)
                 : "memory");
    v[0][4 * i] += p.x;
    v[0][4 * i + 1] += p.y;
    v[0][4 * i + 2] += p.z;
    v[0][4 * i + 3] += p.w;
  }
}

template <int kBn, bool kExact>
__global__ void __launch_bounds__(kRowThreads, 1)
    row_split_gemm(__grid_constant__ RowCall const call, __grid_constant__ CUtensorMap const x_map,
                   __grid_constant__ CUtensorMap const w_map) {
  using Shape = SplitShape<kBn>;
  extern __shared__ __align__(1024) unsigned char memory[];
  uint32_t const base = smem_address(memory);
  int const warp = __shfl_sync(~0u, threadIdx.x / 32, 0), group = warp / 4;
  int const lane = threadIdx.x % 32;
  int const rank = cluster_rank(), cluster = call.splits;
  Tile const tile = tile_of(call.order, blockIdx.x / cluster, kAlone, 0);
  int const first = call.k_blocks * rank / cluster;
  int const blocks = call.k_blocks * (rank + 1) / cluster - first;
  int const column = tile.n * kBn, row = tile.m * Shape::kBm;

  if (threadIdx.x == 0) {
#pragma unroll 1
    for (int s = 0; s < Shape::kStages; ++s) {
      barrier_init(Shape::full(base, s), 1);
      barrier_init(Shape::empty(base, s), 8);
    }
    barrier_init_visible();
    tensor_map_prefetch(&x_map);
    tensor_map_prefetch(&w_map);
  }
  __syncthreads();
  // Waited for before the first push: then every CTA of the cluster runs.
  cluster_arrive();

  if (group == 2) {
    registers_down<24>();
    if (warp == 8) {
      bool const leader = elect_one();
      int const ahead = blocks < Shape::kStages ? blocks : Shape::kStages;
      for (int i = 0; i < ahead; ++i) {
        if (leader) {
          barrier_arrive_expect(Shape::full(base, i), Shape::kStageBytes);
          tma_load(Shape::w(base, i), &w_map, (first + i) * 128, column, Shape::full(base, i),
                   kEvictNormal);
        }
        __syncwarp();
      }
      dependency_wait();
      dependency_launch();
      RowRing<Shape::kStages> ring;
      for (int i = 0; i < blocks; ++i, ring.next()) {
        bool const asked = i < ahead;
        if (!asked) barrier_wait(Shape::empty(base, ring.stage), ring.phase ^ 1);
        if (leader) {
          if (!asked) {
            barrier_arrive_expect(Shape::full(base, ring.stage), Shape::kStageBytes);
            tma_load(Shape::w(base, ring.stage), &w_map, (first + i) * 128, column,
                     Shape::full(base, ring.stage), kEvictNormal);
          }
          tma_load(Shape::x(base, ring.stage), &x_map, (first + i) * 128, row,
                   Shape::full(base, ring.stage), kEvictNormal);
        }
        __syncwarp();
      }
    } else {
      dependency_wait();
    }
    __syncwarp();
    cluster_wait();
    cluster_arrive();
    cluster_wait();
  } else {
    registers_up<240>();
    dependency_wait();
    uint32_t const scales = Shape::scales(base);
    for (int i = threadIdx.x; i < kBn; i += 256) {
      bool const valid = column + i < call.out.n;
      copy4_async(scales + 4 * i, call.sw + (valid ? (column + i) * call.sw_step : 0), valid);
      bool const biased = valid && call.out.bias != nullptr;
      copy4_async(scales + 4 * (kBn + i), biased ? call.out.bias + column + i : call.sw, biased);
    }
    // Chunk c is columns 32 · (c / 8) of the rows that warp c % 8 multiplied. This warp finishes
    // what lies in the places warp, warp + 8, ...
    Chunks const chunks{Shape::kGroups, cluster};
    float sx[Shape::kMostSlots][1][2];
#pragma unroll
    for (int slot = 0; slot < Shape::kMostSlots; ++slot) {
      int const c = chunks.at(rank, warp + 8 * slot);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        int const r = row + 16 * (c % 8) + lane / 4 + 8 * h;
        sx[slot][0][h] = c < Shape::kChunks && r < call.out.m
                             ? call.sx[static_cast<int64_t>(r) * call.sx_step]
                             : 0.0f;
      }
    }

    RowSums<Shape, kBn, 1, kExact> s;
    RowRing<Shape::kStages> ring;
    auto const release = [&](int stage) {
      if (lane == 0) barrier_arrive(Shape::empty(base, stage));
    };
    s.multiply(base, ring, blocks, group * 64, release, [] {});
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncwarp();
    cluster_wait();
    int const places = chunks.places();
#pragma unroll
    for (int g = 0; g < Shape::kGroups; ++g) {
      int const c = 8 * g + warp;
      uint32_t const own =
          Shape::parts(base) + (rank * places + chunks.place(c)) * Shape::kChunkBytes;
      float v[16];
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        int const from = 16 * g + i;
        v[i] = from < Shape::kRegs ? s.sum[0][from < Shape::kRegs ? from : 0] : 0.0f;
      }
      push_chunk(cluster_address(own, chunks.owner(c)), v, lane);
    }
    cluster_arrive();
    cluster_wait();

#pragma unroll
    for (int slot = 0; slot < Shape::kMostSlots; ++slot) {
      int const at = warp + 8 * slot, c = chunks.at(rank, at);
      if (c >= Shape::kChunks) continue;
      float v[1][16] = {};
      for (int from = 0; from < cluster; ++from) {
        add_chunk(v, Shape::parts(base) + (from * places + at) * Shape::kChunkBytes, lane);
      }
      int const g = c / 8, r = row + 16 * (c % 8) + lane / 4;
      constexpr int kRest = kBn % 32 / 8;
      if (kRest != 0 && g == Shape::kGroups - 1) {
        store_columns<kRest == 0 ? 4 : kRest, 1>(call.out, v, 0, sx[slot], scales + 128 * g, kBn, r,
                                                 column + 32 * g, lane);
      } else {
        store_columns<4, 1>(call.out, v, 0, sx[slot], scales + 128 * g, kBn, r, column + 32 * g,
                            lane);
      }
    }
  }
}

}  // namespace qm
